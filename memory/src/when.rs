//! Dates in words and numbers: what a person wrote as a moment in time, and the other way round. All in UTC.

const DAY_MS: i64 = 86_400_000;

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// A day of the Gregorian calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Day {
    /// Such as 2026.
    pub year: i32,
    /// 1 to 12.
    pub month: u32,
    /// 1 to 31.
    pub day: u32,
}

impl Day {
    /// The day a moment lies in, given in milliseconds since 1970.
    pub fn of_ms(ms: u64) -> Day {
        Day::of_days((ms as i64).div_euclid(DAY_MS))
    }

    /// From days since 1970: the algorithm of Howard Hinnant's `civil_from_days`.
    fn of_days(days: i64) -> Day {
        let z = days + 719_468;
        let era = z.div_euclid(146_097);
        let day_of_era = z.rem_euclid(146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted = (5 * day_of_year + 2) / 153;
        let day = (day_of_year - (153 * shifted + 2) / 5 + 1) as u32;
        let month = if shifted < 10 { shifted + 3 } else { shifted - 9 } as u32;
        let year = (year_of_era + era * 400) as i32 + i32::from(month <= 2);
        Day { year, month, day }
    }

    /// Days since 1970.
    fn days(self) -> i64 {
        let year = i64::from(self.year) - i64::from(self.month <= 2);
        let era = year.div_euclid(400);
        let year_of_era = year.rem_euclid(400);
        let month = i64::from(self.month);
        let shifted = if month > 2 { month - 3 } else { month + 9 };
        let day_of_year = (153 * shifted + 2) / 5 + i64::from(self.day) - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        era * 146_097 + day_of_era - 719_468
    }

    /// Its first moment in milliseconds since 1970; `None` before 1970.
    pub fn start_ms(self) -> Option<u64> {
        u64::try_from(self.days() * DAY_MS).ok()
    }

    fn exists(self) -> bool {
        (1..=12).contains(&self.month) && self.day >= 1 && Day::of_days(self.days()) == self
    }

    /// As people write it: `8 May 2023`.
    pub fn in_words(self) -> String {
        format!("{} {} {}", self.day, MONTHS[(self.month - 1) as usize], self.year)
    }

    /// As `2023-05-08`.
    pub fn iso(self) -> String {
        format!("{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

/// A moment as `2023-05-08 13:56`.
pub fn moment(ms: u64) -> String {
    let minutes = ms / 60_000;
    format!("{} {:02}:{:02}", Day::of_ms(ms).iso(), minutes / 60 % 24, minutes % 60)
}

/// Reads a moment as people and programs write it: `1:56 pm on 8 May, 2023`, `2023/05/20 (Sat) 02:21`, `May 8th 2023`,
/// `2023-05-08T13:56:00Z`, milliseconds or seconds since 1970. `None` when no day can be told from it.
pub fn parse(text: &str) -> Option<u64> {
    let text = text.trim();
    if let Ok(number) = text.parse::<u64>() {
        return match number {
            // Seconds reach this number in the year 5138, milliseconds passed it in 1973.
            0..100_000_000_000 if number > 100_000_000 => Some(number * 1000),
            100_000_000_000.. => Some(number),
            _ => None,
        };
    }
    let (mut year, mut month, mut numbers, mut clock) = (None, None, Vec::new(), None);
    let (mut afternoon, mut morning) = (false, false);
    for word in text.split([' ', ',', 'T', '(', ')']).filter(|word| !word.is_empty()) {
        let word = word.trim_end_matches('Z');
        let lower = word.to_ascii_lowercase();
        if let Some((hours, rest)) = word.split_once(':') {
            let minutes: String = rest.chars().take_while(char::is_ascii_digit).collect();
            if let (Ok(hours), Ok(minutes)) = (hours.parse::<u64>(), minutes.parse::<u64>())
                && hours < 24
                && minutes < 60
            {
                clock = clock.or(Some((hours, minutes)));
            }
            afternoon |= lower.ends_with("pm");
            morning |= lower.ends_with("am");
            continue;
        }
        afternoon |= lower == "pm";
        morning |= lower == "am";
        for part in lower.split(['-', '/', '.']).filter(|part| !part.is_empty()) {
            if let Some(named) = MONTHS.iter().position(|name| {
                let name = name.to_ascii_lowercase();
                name == part || (part.len() >= 3 && name.starts_with(part))
            }) {
                month = month.or(Some(named as u32 + 1));
                continue;
            }
            let digits = part.trim_end_matches(|c: char| c.is_ascii_alphabetic());
            match digits.parse::<u32>() {
                Ok(number) if digits.len() == 4 => year = year.or(Some(number as i32)),
                Ok(number) if digits.len() <= 2 && number > 0 => numbers.push(number),
                Ok(_) | Err(_) => {}
            }
        }
    }
    let year = year?;
    let day = match (month, &numbers[..]) {
        (Some(month), [day, ..]) => Day { year, month, day: *day },
        (Some(month), []) => Day { year, month, day: 1 },
        // The year first or last, and then month and day in the order of ISO 8601; another order where only that is a date.
        (None, [first, second, ..]) => {
            let usual = Day { year, month: *first, day: *second };
            if usual.exists() { usual } else { Day { year, month: *second, day: *first } }
        }
        (None, _) => return None,
    };
    if !day.exists() {
        return None;
    }
    let (hours, minutes) = clock.unwrap_or((0, 0));
    let hours = match hours {
        12 if morning => 0,
        0..12 if afternoon => hours + 12,
        _ => hours,
    };
    Some(day.start_ms()? + (hours * 60 + minutes) * 60_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_the_same_there_and_back() {
        for days in (0..60_000).step_by(17).chain([0, 59, 365, 10_957, 11_016, 11_017]) {
            let day = Day::of_days(days);
            assert_eq!(day.days(), days, "{day:?}");
            assert_eq!(parse(&day.in_words()), day.start_ms(), "{day:?}");
            assert_eq!(parse(&day.iso()), day.start_ms(), "{day:?}");
        }
        assert_eq!(Day::of_ms(1_683_554_160_000).in_words(), "8 May 2023");
    }

    #[test]
    fn moments_are_read_as_people_write_them() {
        let read = |text| parse(text).map(moment);
        for (text, expected) in [
            ("1:56 pm on 8 May, 2023", "2023-05-08 13:56"),
            ("12:09 am on 13 September, 2023", "2023-09-13 00:09"),
            ("2023/05/20 (Sat) 02:21", "2023-05-20 02:21"),
            ("March-15-2024", "2024-03-15 00:00"),
            ("May 8th, 2023", "2023-05-08 00:00"),
            ("2026-11-29T11:35:10Z", "2026-11-29 11:35"),
            ("20.05.2023", "2023-05-20 00:00"),
            ("1683554160", "2023-05-08 13:56"),
            ("1683554160000", "2023-05-08 13:56"),
        ] {
            assert_eq!(read(text).as_deref(), Some(expected), "{text}");
        }
        for text in ["", "yesterday", "2023", "31 February, 2023", "13/13/2023", "7"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
