//! All keys of a range, in order, without more than a page of them in memory.

use std::vec;

use super::client::{Client, ClientError, Deadline, RANGE};
use crate::{
    limits,
    pb::{
        etcdserverpb::{
            RangeRequest,
            range_request::{SortOrder, SortTarget},
        },
        mvccpb::KeyValue,
    },
};

/// At which revision the pages are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum At {
    /// All of them at one; 0 is the newest when the first page is read.
    One(i64),
    /// Each at the newest when it is read, so that no compaction gets in the way.
    Newest,
}

/// See the module. After an error the same page may be asked for again.
pub(super) struct Pages<'a> {
    client: &'a Client,
    at: At,
    /// Where the next page begins, and where the last one ends.
    key: Vec<u8>,
    range_end: Vec<u8>,
    limit: i64,
    page: vec::IntoIter<KeyValue>,
    is_last: bool,
    /// The newest revision when the first page was read; 0 before.
    begun_at: i64,
}

impl<'a> Pages<'a> {
    pub(super) fn new(client: &'a Client, (key, range_end): (Vec<u8>, Vec<u8>), at: At) -> Pages<'a> {
        Pages {
            client,
            at,
            key,
            range_end,
            limit: limits::CTL_FIRST_PAGE_KEYS,
            page: Vec::new().into_iter(),
            is_last: false,
            begun_at: 0,
        }
    }

    /// The next key; `None` behind the last.
    pub(super) async fn next(&mut self) -> Result<Option<KeyValue>, ClientError> {
        loop {
            if let Some(kv) = self.page.next() {
                return Ok(Some(kv));
            }
            if self.is_last {
                return Ok(None);
            }
            self.read().await?;
        }
    }

    /// The newest revision when the first page was read. It is read if that has not been done.
    pub(super) async fn begun_at(&mut self) -> Result<i64, ClientError> {
        if self.begun_at == 0 {
            self.read().await?;
        }
        Ok(self.begun_at)
    }

    async fn read(&mut self) -> Result<(), ClientError> {
        let revision = match self.at {
            At::One(0) => self.begun_at,
            At::One(revision) => revision,
            At::Newest => 0,
        };
        let request = RangeRequest {
            key: self.key.clone().into(),
            range_end: self.range_end.clone().into(),
            limit: self.limit,
            revision,
            sort_order: SortOrder::Ascend.into(),
            sort_target: SortTarget::Key.into(),
            ..RangeRequest::default()
        };
        let page = self.client.call(&RANGE, &request, Deadline::never()).await?;
        if self.begun_at == 0 {
            self.begun_at = page.header.map_or(0, |header| header.revision);
        }
        if let Some(last) = page.kvs.last() {
            // The next key behind it.
            self.key = [&last.key[..], b"\0"].concat();
        }
        self.is_last = !page.more;
        self.limit = next_limit(self.limit, &page.kvs);
        self.page = page.kvs.into_iter();
        Ok(())
    }
}

/// As many keys as are about a page, if the next ones are like the last.
fn next_limit(limit: i64, page: &[KeyValue]) -> i64 {
    let bytes: usize = page.iter().map(|kv| kv.key.len() + kv.value.len()).sum();
    let per_page = limits::CTL_PAGE_BYTES * page.len() / bytes.max(1);
    i64::try_from(per_page).unwrap_or(i64::MAX).min(limit * 4).clamp(1, limits::CTL_PAGE_KEYS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_as_large_as_their_values_allow() {
        let page = |keys: usize, bytes: usize| {
            vec![KeyValue { value: vec![0; bytes].into(), ..KeyValue::default() }; keys]
        };
        assert_eq!(next_limit(16, &page(16, 10)), 64, "not too much at once");
        assert_eq!(next_limit(64, &page(64, 10)), 256);
        assert_eq!(next_limit(1000, &page(1000, 10)), limits::CTL_PAGE_KEYS);
        assert_eq!(next_limit(16, &page(16, 1 << 20)), 4);
        assert_eq!(next_limit(4, &page(4, 64 << 20)), 1);
        assert_eq!(next_limit(16, &[]), 1, "there is no next page");
    }
}
