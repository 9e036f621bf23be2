//! Fields of request bodies: how absent, null and bounded values are told apart.

use serde::{Deserialize, Deserializer, de};

/// Reads a value that may be absent but not null.
///
/// # Errors
/// It is null or of another type.
pub fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    match Option::deserialize(deserializer)? {
        Some(value) => Ok(Some(value)),
        None => Err(de::Error::invalid_type(de::Unexpected::Unit, &"a value")),
    }
}

fn bounded<E: de::Error>(text: String, min: usize, max: usize) -> Result<String, E> {
    if text.chars().any(char::is_control) {
        return Err(E::custom("must not contain control characters"));
    }
    if (min..=max).contains(&text.chars().count()) {
        return Ok(text);
    }
    Err(E::custom(format!("must have {min} to {max} characters")))
}

/// Reads one line of `MIN` to `MAX` characters that may be absent but not null.
///
/// # Errors
/// It is null, of another length or has control characters.
pub fn text<'de, const MIN: usize, const MAX: usize, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<String>, D::Error> {
    bounded(String::deserialize(deserializer)?, MIN, MAX).map(Some)
}

/// Reads one line of `MIN` to `MAX` characters that must be there.
///
/// # Errors
/// It is null, of another length or has control characters.
pub fn required_text<'de, const MIN: usize, const MAX: usize, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<String, D::Error> {
    bounded(String::deserialize(deserializer)?, MIN, MAX)
}

/// Reads one line of `MIN` to `MAX` characters; `Some(None)` for null, `None` when absent.
///
/// # Errors
/// It is of another length or has control characters.
pub fn text_or_null<'de, const MIN: usize, const MAX: usize, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<String>>, D::Error> {
    match Option::<String>::deserialize(deserializer)? {
        None => Ok(Some(None)),
        Some(text) => bounded(text, MIN, MAX).map(|text| Some(Some(text))),
    }
}

/// Reads a list of `MIN` to `MAX` items that may be absent but not null.
///
/// # Errors
/// It is null, of another length or of another type.
pub fn list<'de, T: Deserialize<'de>, const MIN: usize, const MAX: usize, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<T>>, D::Error> {
    required_list::<T, MIN, MAX, D>(deserializer).map(Some)
}

/// Reads a list of `MIN` to `MAX` items that must be there.
///
/// # Errors
/// It is null, of another length or of another type.
pub fn required_list<'de, T: Deserialize<'de>, const MIN: usize, const MAX: usize, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    struct Bounded<T, const MIN: usize, const MAX: usize>(std::marker::PhantomData<T>);

    impl<'de, T: Deserialize<'de>, const MIN: usize, const MAX: usize> de::Visitor<'de> for Bounded<T, MIN, MAX> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "a list of {MIN} to {MAX} items")
        }

        fn visit_seq<A: de::SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
            let mut list = vec![];
            while let Some(item) = items.next_element()? {
                // Refused as soon as it is too long, not after all of it was built.
                if list.len() == MAX {
                    return Err(de::Error::custom(format!("must have at most {MAX} items")));
                }
                list.push(item);
            }
            if list.len() < MIN {
                return Err(de::Error::custom(format!("must have at least {MIN} item(s)")));
            }
            Ok(list)
        }
    }

    deserializer.deserialize_seq(Bounded::<T, MIN, MAX>(std::marker::PhantomData))
}
