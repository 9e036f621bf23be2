//! Keyset pages: a page continues behind the last row of the one before, at the same cost wherever it is.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Error;

/// The most rows of one page; a larger wish is cut to it.
pub const ROWS_MAX: usize = 1_000;

/// The most characters of a cursor; a longer one was never made here.
const CURSOR_CHARS_MAX: usize = 16_384;

/// Which page is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The `next_cursor` of the page before; `None` for the first.
    pub after: Option<String>,
    /// How many rows at most.
    pub limit: usize,
}

impl Page {
    /// Returns the first page.
    #[must_use]
    pub fn first(limit: usize) -> Self {
        Self { after: None, limit }
    }

    pub(crate) fn rows(&self) -> usize {
        self.limit.clamp(1, ROWS_MAX)
    }

    /// One row more than wanted tells whether there is a next page.
    pub(crate) fn fetch(&self) -> i64 {
        i64::try_from(self.rows() + 1).unwrap_or(i64::MAX)
    }

    /// Returns the sort key behind which this page begins.
    pub(crate) fn key<K: DeserializeOwned>(&self, list: &str) -> Result<Option<K>, Error> {
        let Some(cursor) = &self.after else { return Ok(None) };
        if cursor.len() > CURSOR_CHARS_MAX {
            return Err(Error::BadCursor);
        }
        let json = BASE64_URL_SAFE_NO_PAD.decode(cursor).map_err(|_| Error::BadCursor)?;
        let (of, key): (String, K) = serde_json::from_slice(&json).map_err(|_| Error::BadCursor)?;
        if of == list { Ok(Some(key)) } else { Err(Error::BadCursor) }
    }
}

/// A page of rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paged<Row> {
    /// The rows, in the order of the list.
    pub rows: Vec<Row>,
    /// Opaque; where the next page begins. `None` on the last one.
    pub next_cursor: Option<String>,
}

impl<Row> Paged<Row> {
    /// Returns the page made of the rows that were fetched, one more than wanted if there is a next page.
    pub(crate) fn new<K: Serialize>(
        mut rows: Vec<Row>,
        page: &Page,
        list: &str,
        key: impl Fn(&Row) -> K,
    ) -> Result<Self, Error> {
        let more = rows.len() > page.rows();
        rows.truncate(page.rows());
        let next_cursor = match rows.last().filter(|_| more) {
            Some(last) => Some(BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_vec(&(list, key(last)))?)),
            None => None,
        };
        Ok(Self { rows, next_cursor })
    }

    /// Returns the page with each row replaced.
    pub fn map<Other>(self, each: impl FnMut(Row) -> Other) -> Paged<Other> {
        Paged { rows: self.rows.into_iter().map(each).collect(), next_cursor: self.next_cursor }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_of_another_list_is_refused() {
        let page = Paged::new(vec![1, 2, 3], &Page::first(2), "numbers", |n| *n).unwrap();
        assert_eq!(page.rows, [1, 2]);
        let next = Page { after: page.next_cursor, limit: 2 };
        assert_eq!(next.key::<i64>("numbers").unwrap(), Some(2));
        assert!(matches!(next.key::<i64>("letters"), Err(Error::BadCursor)));
        assert!(matches!(next.key::<String>("numbers"), Err(Error::BadCursor)));
        for bad in ["", "!", "AAAA", &"A".repeat(100_000)] {
            let page = Page { after: Some(bad.to_owned()), limit: 2 };
            assert!(matches!(page.key::<i64>("numbers"), Err(Error::BadCursor)));
        }
    }

    #[test]
    fn the_last_page_has_no_cursor() {
        assert_eq!(Paged::new(vec![1, 2], &Page::first(2), "numbers", |n| *n).unwrap().next_cursor, None);
    }
}
