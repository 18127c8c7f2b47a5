//! Canonical JSON: the only way kiln writes a document whose digest matters.
//!
//! Keys are sorted by their UTF-8 bytes, there is no white space, and nothing is written that
//! depends on a map's order. The same value therefore has the same bytes on every machine.

use serde::Serialize;
use serde_json::Value;

/// Returns `document` as canonical JSON.
///
/// # Errors
/// A value that JSON cannot hold, such as a map whose keys are not text.
pub fn to_vec<T: Serialize + ?Sized>(document: &T) -> Result<Vec<u8>, serde_json::Error> {
    let mut bytes = Vec::new();
    write(&serde_json::to_value(document)?, &mut bytes)?;
    Ok(bytes)
}

/// Writes `value` with the keys of every object in order.
///
/// `serde_json::Map` is sorted only while nobody in the build turns on its `preserve_order`
/// feature, so the order is made here.
fn write(value: &Value, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
    match value {
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_unstable_by_key(|(key, _)| key.as_bytes());
            out.push(b'{');
            for (at, (key, member)) in members.into_iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                serde_json::to_writer(&mut *out, key)?;
                out.push(b':');
                write(member, out)?;
            }
            out.push(b'}');
        }
        Value::Array(items) => {
            out.push(b'[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                write(item, out)?;
            }
            out.push(b']');
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            serde_json::to_writer(out, value)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Unordered {
        zeta: u8,
        alpha: Vec<Option<&'static str>>,
        #[serde(rename = "Mid")]
        mid: std::collections::BTreeMap<&'static str, u8>,
    }

    #[test]
    fn keys_are_sorted_by_bytes_and_nothing_is_padded() {
        let value = Unordered {
            zeta: 1,
            alpha: vec![Some("a\"\n\u{e9}"), None],
            mid: [("b", 2), ("a", 1)].into(),
        };
        assert_eq!(
            String::from_utf8(to_vec(&value).unwrap()).unwrap(),
            "{\"Mid\":{\"a\":1,\"b\":2},\"alpha\":[\"a\\\"\\n\u{e9}\",null],\"zeta\":1}"
        );
    }

    proptest::proptest! {
        #[test]
        fn writing_twice_gives_the_same_bytes(text in ".*", numbers: Vec<u64>) {
            let value = serde_json::json!({ "b": text, "a": numbers, text.clone(): {} });
            let bytes = to_vec(&value).unwrap();
            let again: Value = serde_json::from_slice(&bytes).unwrap();
            proptest::prop_assert_eq!(&again, &value);
            proptest::prop_assert_eq!(to_vec(&again).unwrap(), bytes);
        }
    }
}
