//! Tensor names: what a Hugging Face folder calls a tensor, and what GGUF does.

use super::config::Config;

/// Where a tensor goes.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Target {
    /// As it is, but for a change.
    Tensor(String, Change),
    /// It is one expert's matrix.
    Expert(String, usize),
    /// [experts, rows, columns]: each expert's rows are these matrices, one after another.
    Stacked(Vec<String>),
    /// [experts, columns, rows] of floats, to be turned.
    Turned(String),
    /// MXFP4 blocks with scales beside them.
    Packed(String),
    /// [experts, 2 · hidden]: numbers of these two in turn.
    Halved([String; 2]),
    /// Rows that are looked up, and never multiplied with.
    Table(String),
}

/// How a tensor's numbers are changed on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    None,
    /// Norms that are kept as what differs from one.
    PlusOne,
    /// Logarithms of decay rates: −eˣ.
    NegativeExp,
    /// Dimensions of one are left out.
    Flat,
}

impl Change {
    pub(super) fn apply(self, numbers: &mut [f32]) {
        match self {
            Change::None | Change::Flat => {}
            Change::PlusOne => numbers.iter_mut().for_each(|x| *x += 1.0),
            Change::NegativeExp => numbers.iter_mut().for_each(|x| *x = -x.exp()),
        }
    }
}

/// Tensors outside of layers.
const ONCE: [(&str, &str); 3] = [
    ("embed_tokens.weight", "token_embd.weight"),
    ("norm.weight", "output_norm.weight"),
    ("lm_head.weight", "output.weight"),
];

/// Tensors of a layer, in most families.
const LAYER: [(&str, &str); 51] = [
    ("input_layernorm.weight", "attn_norm.weight"),
    ("post_attention_layernorm.weight", "ffn_norm.weight"),
    ("pre_feedforward_layernorm.weight", "ffn_norm.weight"),
    ("post_feedforward_layernorm.weight", "post_ffw_norm.weight"),
    ("self_attn.q_proj.weight", "attn_q.weight"),
    ("self_attn.k_proj.weight", "attn_k.weight"),
    ("self_attn.v_proj.weight", "attn_v.weight"),
    ("self_attn.o_proj.weight", "attn_output.weight"),
    ("self_attn.q_proj.bias", "attn_q.bias"),
    ("self_attn.k_proj.bias", "attn_k.bias"),
    ("self_attn.v_proj.bias", "attn_v.bias"),
    ("self_attn.o_proj.bias", "attn_output.bias"),
    ("self_attn.q_norm.weight", "attn_q_norm.weight"),
    ("self_attn.k_norm.weight", "attn_k_norm.weight"),
    ("self_attn.sinks", "attn_sinks.weight"),
    ("self_attn.q_a_proj.weight", "attn_q_a.weight"),
    ("self_attn.q_a_proj.bias", "attn_q_a.bias"),
    ("self_attn.q_a_layernorm.weight", "attn_q_a_norm.weight"),
    ("self_attn.q_b_proj.weight", "attn_q_b.weight"),
    ("self_attn.kv_a_proj_with_mqa.weight", "attn_kv_a_mqa.weight"),
    ("self_attn.kv_a_proj_with_mqa.bias", "attn_kv_a_mqa.bias"),
    ("self_attn.kv_a_layernorm.weight", "attn_kv_a_norm.weight"),
    ("self_attn.kv_b_proj.weight", "attn_kv_b.weight"),
    ("linear_attn.in_proj_qkvz.weight", "ssm_in.weight"),
    ("linear_attn.in_proj_ba.weight", "ssm_ba.weight"),
    ("linear_attn.in_proj_qkv.weight", "attn_qkv.weight"),
    ("linear_attn.in_proj_z.weight", "attn_gate.weight"),
    ("linear_attn.in_proj_b.weight", "ssm_beta.weight"),
    ("linear_attn.in_proj_a.weight", "ssm_alpha.weight"),
    ("linear_attn.dt_bias", "ssm_dt.bias"),
    ("linear_attn.norm.weight", "ssm_norm.weight"),
    ("linear_attn.out_proj.weight", "ssm_out.weight"),
    ("mlp.gate_proj.weight", "ffn_gate.weight"),
    ("mlp.up_proj.weight", "ffn_up.weight"),
    ("mlp.down_proj.weight", "ffn_down.weight"),
    ("mlp.gate_proj.bias", "ffn_gate.bias"),
    ("mlp.up_proj.bias", "ffn_up.bias"),
    ("mlp.down_proj.bias", "ffn_down.bias"),
    ("mlp.gate.weight", "ffn_gate_inp.weight"),
    ("mlp.router.weight", "ffn_gate_inp.weight"),
    ("mlp.router.bias", "ffn_gate_inp.bias"),
    ("block_sparse_moe.gate.weight", "ffn_gate_inp.weight"),
    ("mlp.gate.e_score_correction_bias", "exp_probs_b.bias"),
    ("block_sparse_moe.e_score_correction_bias", "exp_probs_b.bias"),
    ("mlp.shared_experts.gate_proj.weight", "ffn_gate_shexp.weight"),
    ("mlp.shared_experts.up_proj.weight", "ffn_up_shexp.weight"),
    ("mlp.shared_experts.down_proj.weight", "ffn_down_shexp.weight"),
    ("mlp.shared_expert.gate_proj.weight", "ffn_gate_shexp.weight"),
    ("mlp.shared_expert.up_proj.weight", "ffn_up_shexp.weight"),
    ("mlp.shared_expert.down_proj.weight", "ffn_down_shexp.weight"),
    ("mlp.experts.down_proj_bias", "ffn_down_exps.bias"),
];

/// Tensors of DeepSeek V4 and V4.1 outside of layers.
const ONCE_DEEPSEEK4: [(&str, &str); 6] = [
    ("embed.weight", "token_embd.weight"),
    ("norm.weight", "output_norm.weight"),
    ("head.weight", "output.weight"),
    ("hc_head_fn", "output_hc_fn.weight"),
    ("hc_head_base", "output_hc_base.weight"),
    ("hc_head_scale", "output_hc_scale.weight"),
];

/// Tensors of a layer of DeepSeek V4 and V4.1.
const LAYER_DEEPSEEK4: [(&str, &str); 38] = [
    ("attn_norm.weight", "attn_norm.weight"),
    ("ffn_norm.weight", "ffn_norm.weight"),
    ("hc_attn_fn", "hc_attn_fn.weight"),
    ("hc_attn_base", "hc_attn_base.weight"),
    ("hc_attn_scale", "hc_attn_scale.weight"),
    ("hc_ffn_fn", "hc_ffn_fn.weight"),
    ("hc_ffn_base", "hc_ffn_base.weight"),
    ("hc_ffn_scale", "hc_ffn_scale.weight"),
    ("attn.wq_a.weight", "attn_q_a.weight"),
    ("attn.q_norm.weight", "attn_q_a_norm.weight"),
    ("attn.wq_b.weight", "attn_q_b.weight"),
    ("attn.wkv.weight", "attn_kv.weight"),
    ("attn.kv_norm.weight", "attn_kv_a_norm.weight"),
    ("attn.attn_sink", "attn_sinks.weight"),
    ("attn.wo_a.weight", "attn_output_a.weight"),
    ("attn.wo_b.weight", "attn_output_b.weight"),
    ("attn.compressor.wkv.weight", "attn_compressor_kv.weight"),
    ("attn.compressor.wgate.weight", "attn_compressor_gate.weight"),
    ("attn.compressor.ape", "attn_compressor_ape.weight"),
    ("attn.compressor.norm.weight", "attn_compressor_norm.weight"),
    ("attn.indexer.wq_b.weight", "indexer.attn_q_b.weight"),
    ("attn.indexer.weights_proj.weight", "indexer.proj.weight"),
    ("attn.indexer.wk.weight", "indexer.attn_k.weight"),
    ("attn.indexer.k_norm.weight", "indexer.k_norm.weight"),
    ("attn.indexer.compressor.wkv.weight", "indexer_compressor_kv.weight"),
    ("attn.indexer.compressor.wgate.weight", "indexer_compressor_gate.weight"),
    ("attn.indexer.compressor.ape", "indexer_compressor_ape.weight"),
    ("attn.indexer.compressor.norm.weight", "indexer_compressor_norm.weight"),
    ("ffn.gate.weight", "ffn_gate_inp.weight"),
    ("ffn.gate.bias", "exp_probs_b.bias"),
    ("ffn.gate.tid2eid", "ffn_gate_tid2eid.weight"),
    ("ffn.shared_experts.w1.weight", "ffn_gate_shexp.weight"),
    ("ffn.shared_experts.w3.weight", "ffn_up_shexp.weight"),
    ("ffn.shared_experts.w2.weight", "ffn_down_shexp.weight"),
    ("engram.embed.weight", "engram_embd.weight"),
    ("engram.wkv.weight", "engram_wkv.weight"),
    ("engram.q_weight", "engram_q.weight"),
    ("engram.k_weight", "engram_k.weight"),
];

/// Parts that only a layer has that guesses ahead: in most families, in Qwen's, and in DeepSeek V4.
const AHEAD: [(&str, &str); 6] = [
    ("eh_proj.weight", "nextn.eh_proj.weight"),
    ("enorm.weight", "nextn.enorm.weight"),
    ("hnorm.weight", "nextn.hnorm.weight"),
    ("embed_tokens.weight", "nextn.embed_tokens.weight"),
    ("shared_head.norm.weight", "nextn.shared_head_norm.weight"),
    ("shared_head.head.weight", "nextn.shared_head_head.weight"),
];
const AHEAD_QWEN: [(&str, &str); 4] = [
    ("fc.weight", "nextn.eh_proj.weight"),
    ("pre_fc_norm_embedding.weight", "nextn.enorm.weight"),
    ("pre_fc_norm_hidden.weight", "nextn.hnorm.weight"),
    ("norm.weight", "nextn.shared_head_norm.weight"),
];
const AHEAD_DEEPSEEK4: [(&str, &str); 8] = [
    ("e_proj.weight", "nextn.e_proj.weight"),
    ("h_proj.weight", "nextn.h_proj.weight"),
    ("enorm.weight", "nextn.enorm.weight"),
    ("hnorm.weight", "nextn.hnorm.weight"),
    ("norm.weight", "nextn.shared_head_norm.weight"),
    ("hc_head_fn", "nextn.hc_head_fn.weight"),
    ("hc_head_base", "nextn.hc_head_base.weight"),
    ("hc_head_scale", "nextn.hc_head_scale.weight"),
];

/// How a family's files name the layer that guesses ahead.
struct Ahead {
    /// What stands before the parts that only this layer has.
    own: String,
    /// What stands before those that every layer has.
    layer: String,
    parts: Table,
}

impl Ahead {
    /// The names in a model with this many other layers; nothing if no model of the family has such a layer that is known
    /// here.
    fn of(family: &str, layers: usize) -> Option<Ahead> {
        let (own, layer, parts): (_, _, Table) = match family {
            "deepseek2" | "glm4moe" => {
                let front = format!("layers.{layers}.");
                (front.clone(), front, &AHEAD)
            }
            "qwen3next" | "qwen35" | "qwen35moe" => ("mtp.".into(), "mtp.layers.0.".into(), &AHEAD_QWEN),
            "deepseek4" => ("mtp.0.".into(), "mtp.0.".into(), &AHEAD_DEEPSEEK4),
            _ => return None,
        };
        Some(Ahead { own, layer, parts })
    }
}

/// The tables of the family's names: outside of layers, and of a layer.
type Table = &'static [(&'static str, &'static str)];

fn tables(family: &str) -> (Table, Table) {
    match family {
        "deepseek4" | "deepseek41" => (&ONCE_DEEPSEEK4, &LAYER_DEEPSEEK4),
        _ => (&ONCE, &LAYER),
    }
}

/// Whether a family has the names that DeepSeek uses since V4.
fn has_deepseek_names(family: &str) -> bool {
    matches!(family, "deepseek4" | "deepseek41")
}

/// An expert's matrices: what stands behind its number.
const EXPERT: [(&str, &str); 6] = [
    ("gate_proj.weight", "ffn_gate_exps.weight"),
    ("up_proj.weight", "ffn_up_exps.weight"),
    ("down_proj.weight", "ffn_down_exps.weight"),
    ("w1.weight", "ffn_gate_exps.weight"),
    ("w3.weight", "ffn_up_exps.weight"),
    ("w2.weight", "ffn_down_exps.weight"),
];

/// What stands before an expert's number.
const EXPERTS: [&str; 3] = ["mlp.experts.", "block_sparse_moe.experts.", "ffn.experts."];

/// Parts of a folder that have nothing to do with text.
const OTHERS: [&str; 8] = [
    "visual.",
    "vision_tower.",
    "vision_model.",
    "vision.",
    "aligner.",
    "image_",
    "multi_modal_projector.",
    "audio_tower.",
];

/// What follows stands in a layer's own names where the files of some families have more around it.
const PREFIXES: [&str; 4] = ["model.language_model.", "language_model.model.", "language_model.", "model."];

/// Where the tensor that the files call `name` goes; nothing if it is no part of a text model.
///
/// # Errors
/// If the name is none that a model of this family has.
pub(super) fn translate(family: &str, name: &str, config: &Config) -> Result<Option<Target>, String> {
    let short = PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
    if OTHERS.iter().any(|other| short.starts_with(other) || name.starts_with(other)) {
        return Ok(None);
    }
    let layers = config.layers();
    if let Some(ahead) = Ahead::of(family, layers) {
        let own = short.strip_prefix(&ahead.own);
        let own = own.and_then(|part| ahead.parts.iter().find(|(theirs, _)| *theirs == part));
        if let Some((_, ours)) = own {
            return Ok(Some(Target::Tensor(format!("blk.{layers}.{ours}"), change(config, ours))));
        }
        if let Some(part) = short.strip_prefix(&ahead.layer) {
            // A part that is not known may belong to a way of guessing that is not known, either.
            return Ok(of_layer(family, layers, part, config).flatten());
        }
    }
    if short.starts_with("mtp.") {
        return Ok(None);
    }
    let (once, _) = tables(family);
    if let Some((_, ours)) = once.iter().find(|(theirs, _)| *theirs == short) {
        return Ok(Some(Target::Tensor((*ours).to_owned(), change(config, ours))));
    }
    let unknown = || format!("its tensor `{name}` is no part of a `{family}` model as it is known here");
    let (layer, part) = short
        .strip_prefix("layers.")
        .and_then(|rest| rest.split_once('.'))
        .and_then(|(layer, part)| Some((layer.parse::<usize>().ok()?, part)))
        .ok_or_else(unknown)?;
    if layer >= layers {
        // It only guesses ahead.
        return Ok(None);
    }
    of_layer(family, layer, part, config).ok_or_else(unknown)
}

/// How the tensor that GGUF calls `ours`, wherever it stands, is changed on the way.
fn change(config: &Config, ours: &str) -> Change {
    // The norm of what layers with states give is kept as it is in all families.
    let centred =
        config.has_zero_centred_norms() && ours.contains("norm.weight") && ours != "ssm_norm.weight";
    if centred { Change::PlusOne } else { Change::None }
}

/// Where a part of layer `layer` goes, which may be nowhere; `None` if it is not known.
fn of_layer(family: &str, layer: usize, part: &str, config: &Config) -> Option<Option<Target>> {
    let own = |part: &str| format!("blk.{layer}.{part}");
    if let Some(target) = part.strip_prefix("engram.").and_then(paper) {
        return Some(match target {
            Target::Table(to) => Some(Target::Table(own(&to))),
            Target::Tensor(to, change) => Some(Target::Tensor(own(&to), change)),
            _ => None,
        });
    }
    if let Some((expert, part)) = EXPERTS.iter().find_map(|prefix| {
        let (expert, part) = part.strip_prefix(prefix)?.split_once('.')?;
        Some((expert.parse::<usize>().ok()?, part))
    }) {
        let (_, ours) = EXPERT.iter().find(|(theirs, _)| *theirs == part)?;
        return Some(Some(Target::Expert(own(ours), expert)));
    }
    let gpt_oss = family == "gpt-oss";
    Some(Some(match part {
        "mlp.experts.gate_up_proj" if gpt_oss => Target::Turned(own("ffn_gate_up_exps_in_turn.weight")),
        "mlp.experts.down_proj" if gpt_oss => Target::Turned(own("ffn_down_exps.weight")),
        "mlp.experts.gate_up_proj_blocks" => Target::Packed(own("ffn_gate_up_exps_in_turn.weight")),
        "mlp.experts.down_proj_blocks" => Target::Packed(own("ffn_down_exps.weight")),
        "mlp.experts.gate_up_proj_bias" => {
            Target::Halved([own("ffn_gate_exps.bias"), own("ffn_up_exps.bias")])
        }
        "mlp.experts.gate_up_proj" => {
            Target::Stacked(vec![own("ffn_gate_exps.weight"), own("ffn_up_exps.weight")])
        }
        "mlp.experts.down_proj" => Target::Stacked(vec![own("ffn_down_exps.weight")]),
        "mlp.shared_expert_gate.weight" => Target::Tensor(own("ffn_gate_inp_shexp.weight"), Change::Flat),
        "post_attention_layernorm.weight" if has_post_attention_norm(family) => {
            let ours = "post_attention_norm.weight";
            Target::Tensor(own(ours), change(config, ours))
        }
        "linear_attn.A_log" => Target::Tensor(own("ssm_a"), Change::NegativeExp),
        "linear_attn.conv1d.weight" => Target::Tensor(own("ssm_conv1d.weight"), Change::Flat),
        "engram.embed.weight" => Target::Table(own("engram_embd.weight")),
        // It corrects the experts of pieces of images.
        "ffn.gate.bias_vl" => return Some(None),
        // Tables that are computed here.
        "self_attn.rotary_emb.inv_freq" => return Some(None),
        _ => {
            let (_, table) = tables(family);
            let (_, ours) = table.iter().find(|(theirs, _)| *theirs == part)?;
            Target::Tensor(own(ours), change(config, ours))
        }
    }))
}

/// Parts of the module in the demo of Engram's paper, by their own names in a layer; nothing for others' parts.
fn paper(part: &str) -> Option<Target> {
    let tensor = |to: String| Some(Target::Tensor(to, Change::None));
    match part {
        "multi_head_embedding.embedding.weight" => return Some(Target::Table("engram_embd.weight".into())),
        // [channels, 1, places]
        "short_conv.conv.weight" => {
            return Some(Target::Tensor("engram_conv.weight".into(), Change::Flat));
        }
        "value_proj.weight" => return tensor("engram_value.weight".into()),
        "value_proj.bias" => return tensor("engram_value.bias".into()),
        _ => {}
    }
    const OF_STREAMS: [(&str, &str); 4] = [
        ("key_projs.", "engram_key"),
        ("norm1.", "engram_key_norm"),
        ("norm2.", "engram_query_norm"),
        ("short_conv.norms.", "engram_value_norm"),
    ];
    let (rest, ours) =
        OF_STREAMS.iter().find_map(|(theirs, ours)| Some((part.strip_prefix(theirs)?, ours)))?;
    tensor(format!("{ours}.{rest}"))
}

/// Whether GGUF has the norm after attention under its own name in this family.
fn has_post_attention_norm(family: &str) -> bool {
    matches!(family, "gemma3" | "glm4moe" | "gpt-oss" | "qwen3next" | "qwen35moe" | "qwen35")
}

/// What folders of this family call the tensor that GGUF calls `name` in a model with so many layers, to be named in errors.
pub(super) fn theirs(family: &str, layers: usize, name: &str) -> Option<String> {
    let (once, table) = tables(family);
    let deepseek = has_deepseek_names(family);
    let (front, experts) = if deepseek { ("", "ffn.experts") } else { ("model.", "mlp.experts") };
    if let Some((theirs, _)) = once.iter().find(|(_, ours)| *ours == name) {
        return Some(if *theirs == "lm_head.weight" {
            (*theirs).to_owned()
        } else {
            format!("{front}{theirs}")
        });
    }
    let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    let mut layer_front = format!("{front}layers.{layer}.");
    if layer.parse() == Ok(layers)
        && let Some(ahead) = Ahead::of(family, layers)
    {
        let front = if ahead.own.starts_with("mtp.") { "" } else { front };
        if let Some((theirs, _)) = ahead.parts.iter().find(|(_, ours)| *ours == rest) {
            return Some(format!("{front}{}{theirs}", ahead.own));
        }
        layer_front = format!("{front}{}", ahead.layer);
    }
    let mut parts = EXPERT.iter().filter(|(theirs, _)| deepseek == theirs.starts_with('w'));
    if let Some((theirs, _)) = parts.find(|(_, ours)| *ours == rest) {
        return Some(format!("{layer_front}{experts}.*.{theirs}"));
    }
    let (theirs, _) = table.iter().find(|(_, ours)| *ours == rest)?;
    Some(format!("{layer_front}{theirs}"))
}
