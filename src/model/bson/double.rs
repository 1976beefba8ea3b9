//! Floating point numbers as Java spells them.

use std::io::Write as _;

/// Writes the number as `Double.toString` does since Java 19; older ones have more digits for some, and all of these
/// mean the same number.
pub(super) fn write_double(number: f64, out: &mut Vec<u8>) {
    if !number.is_finite() {
        out.extend_from_slice(match number {
            f64::INFINITY => b"Infinity",
            f64::NEG_INFINITY => b"-Infinity",
            _ => b"NaN",
        });
        return;
    }
    if number.is_sign_negative() {
        out.push(b'-');
    }
    let number = number.abs();
    if number == 0.0 {
        out.extend_from_slice(b"0.0");
        return;
    }
    let mut shortest = format!("{number:e}");
    if !shortest.contains('.') {
        // Java takes two digits at least, and of all that mean the number the nearest.
        let nearest = format!("{number:.1e}");
        if nearest.parse() == Ok(number) {
            shortest = nearest;
        }
    }
    let (digits, exponent) = shortest.split_once('e').expect("it was formatted with an exponent");
    let exponent: i32 = exponent.parse().expect("the exponent of a double is small");
    let digits: String = digits.chars().filter(|c| *c != '.').collect();
    let digits = match digits.trim_end_matches('0') {
        "" => "0",
        digits => digits,
    };
    let spell = |whole: &str, fraction: &str| {
        let fraction = if fraction.is_empty() { "0" } else { fraction };
        format!("{whole}.{fraction}")
    };
    let text = match usize::try_from(exponent) {
        Ok(exponent) if exponent < 7 => {
            let whole = exponent + 1;
            if digits.len() <= whole {
                spell(&format!("{digits:0<whole$}"), "")
            } else {
                spell(&digits[..whole], &digits[whole..])
            }
        }
        Err(_) if exponent >= -3 => {
            let zeros = usize::try_from(-exponent - 1).expect("at most two");
            spell("0", &format!("{}{digits}", "0".repeat(zeros)))
        }
        _ => format!("{}E{exponent}", spell(&digits[..1], &digits[1..])),
    };
    out.write_all(text.as_bytes()).expect("memory takes everything");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(number: f64) -> String {
        let mut out = Vec::new();
        write_double(number, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn numbers_are_spelled_as_in_java() {
        for (number, expected) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (-1.5, "-1.5"),
            (100.0, "100.0"),
            (0.001, "0.001"),
            (0.012_3, "0.0123"),
            (0.000_999, "9.99E-4"),
            (9_999_999.0, "9999999.0"),
            (1_234_567.5, "1234567.5"),
            (1e7, "1.0E7"),
            (1.23e-5, "1.23E-5"),
            (12_345_678.9, "1.23456789E7"),
            (1e21, "1.0E21"),
            (2e23, "2.0E23"),
            (8.41e21, "8.41E21"),
            (f64::MAX, "1.7976931348623157E308"),
            (f64::MIN_POSITIVE, "2.2250738585072014E-308"),
            (f64::from_bits(1), "4.9E-324"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "Infinity"),
            (f64::NEG_INFINITY, "-Infinity"),
        ] {
            assert_eq!(text(number), expected);
        }
    }

    proptest! {
        #[test]
        fn every_number_is_read_back_as_it_was(bits in any::<u64>(), plain in -1e9..1e9_f64) {
            for number in [f64::from_bits(bits), plain] {
                if number.is_finite() {
                    prop_assert_eq!(text(number).parse::<f64>().unwrap().to_bits(), number.to_bits());
                    prop_assert!(text(number).contains('.'));
                }
            }
        }
    }
}
