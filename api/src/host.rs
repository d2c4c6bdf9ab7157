//! Facts about this machine.

use std::path::Path;

/// The machine's memory. Bytes.
pub(crate) fn memory_bytes() -> Option<u64> {
    meminfo("MemTotal:")
}

/// Memory of this process that is in use. Bytes.
pub(crate) fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? << 10)
}

/// How many processes this one has started, and these in turn.
pub(crate) fn descendants() -> Option<u64> {
    let mut parents: Vec<(u32, u32)> = Vec::new();
    for entry in std::fs::read_dir("/proc").ok()?.filter_map(Result::ok) {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // A process may end while it is looked at.
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        // What stands in parentheses is the program's name, with any letters in it.
        let after = stat.rsplit_once(") ").map(|(_, after)| after).unwrap_or_default();
        if let Some(parent) = after.split(' ').nth(1).and_then(|parent| parent.parse().ok()) {
            parents.push((pid, parent));
        }
    }
    let mut found = vec![std::process::id()];
    let mut at = 0;
    while let Some(parent) = found.get(at).copied() {
        found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        at += 1;
    }
    Some(found.len() as u64 - 1)
}

/// What programs could use of it now. Bytes.
pub(crate) fn memory_free_bytes() -> Option<u64> {
    meminfo("MemAvailable:")
}

fn meminfo(field: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Room for files of this user under `path`, or under the nearest folder above it that exists. Bytes.
pub(crate) fn disk_free_bytes(path: &Path) -> Option<u64> {
    let there = path.ancestors().find(|dir| dir.exists())?;
    let stat = rustix::fs::statvfs(there).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// The processor's name.
pub(crate) fn cpu_name() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name") || line.starts_with("Model"))?;
    Some(line.split_once(':')?.1.trim().to_string())
}

/// Instruction sets that make the engine fast, each with whether this processor has it.
pub(crate) fn cpu_features() -> Vec<(&'static str, bool)> {
    #[cfg(target_arch = "x86_64")]
    {
        vec![
            ("avx2", std::arch::is_x86_feature_detected!("avx2")),
            ("fma", std::arch::is_x86_feature_detected!("fma")),
            ("f16c", std::arch::is_x86_feature_detected!("f16c")),
            ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
            ("avx512vnni", std::arch::is_x86_feature_detected!("avx512vnni")),
        ]
    }
    #[cfg(target_arch = "aarch64")]
    {
        vec![
            ("neon", std::arch::is_aarch64_feature_detected!("neon")),
            ("dotprod", std::arch::is_aarch64_feature_detected!("dotprod")),
            ("i8mm", std::arch::is_aarch64_feature_detected!("i8mm")),
        ]
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        Vec::new()
    }
}

/// Bytes as people read them: `1.1 GB`.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KB", "MB", "GB", "TB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// Bytes as memory is counted: `3.43 GiB`.
pub(crate) fn binary_bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = n as f64;
    let mut unit = 0;
    // Below half of the last digit of what is rounded up to 1024.
    while value >= 1023.995 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} B") } else { format!("{value:.2} {}", UNITS[unit]) }
}

/// Bytes as people write them: `24G` and `24GiB` are 24 · 2³⁰, `24GB` is 24 · 10⁹, a number alone is bytes.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim().to_ascii_lowercase();
    let (prefix, base) = match unit.as_str() {
        "" | "b" => ("", 1.0),
        unit => match unit.strip_suffix("ib").or(unit.strip_suffix('b').map(|_| "")) {
            // Two letters that end in b count in thousands.
            Some("") => (&unit[..unit.len() - 1], 1000.0),
            Some(prefix) => (prefix, 1024.0),
            None => (unit, 1024.0_f64),
        },
    };
    let power = ["", "k", "m", "g", "t"].iter().position(|known| *known == prefix);
    let bytes = number.parse::<f64>().ok().zip(power).map(|(number, power)| number * base.powi(power as i32));
    match bytes {
        // Beyond 2⁵³ not every number of bytes can be said, and no machine has so much.
        Some(bytes) if bytes < 9e15 => Ok(bytes as u64),
        _ => Err(format!("{text:?} is no size; write it like 24G, 512M or 8000000000")),
    }
}

/// A number as people read it: `12,345`.
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Seconds as people read them: `0.4 s`, `12 s`, `3 min 5 s`.
pub(crate) fn seconds(s: f64) -> String {
    if s < 10.0 {
        return format!("{s:.1} s");
    }
    let whole = s.round() as u64;
    match (whole / 60, whole % 60) {
        (0, s) => format!("{s} s"),
        (m, s) if m < 60 => format!("{m} min {s} s"),
        (m, _) => format!("{} h {} min", m / 60, m % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!([bytes(999), bytes(1_117_320_768)], ["999 B", "1.1 GB"]);
        assert_eq!([count(0), count(999), count(1000), count(1_234_567)], ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(
            [seconds(0.44), seconds(59.6), seconds(185.0), seconds(7260.0)],
            ["0.4 s", "1 min 0 s", "3 min 5 s", "2 h 1 min"]
        );
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        let gib = 1 << 30;
        for (text, bytes) in [
            ("24G", 24 * gib),
            ("24g", 24 * gib),
            ("24GiB", 24 * gib),
            ("24 gib", 24 * gib),
            ("24GB", 24_000_000_000),
            ("1.5M", 3 << 19),
            ("512k", 512 << 10),
            ("2T", 2048 * gib),
            ("7", 7),
            ("7B", 7),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["", "G", "24X", "24GG", "-1G", "1e9", "1..5G", "9999999T", "24ib", "NaN"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
        assert_eq!(binary_bytes(3_688_171_520), "3.43 GiB");
        assert_eq!([binary_bytes(1023), binary_bytes((1 << 20) - 1)], ["1023 B", "1.00 MiB"]);
    }

    #[test]
    fn this_machine_tells_its_memory_and_disk() {
        assert!(memory_bytes().unwrap() >= memory_free_bytes().unwrap());
        assert!(disk_free_bytes(Path::new("/no/such/folder")).is_some());
    }
}
