//! Whatever is pushed is read back.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::{Told, build_one, producer, read};
use crate::batch::builder::TIMESTAMP_MAX;
use crate::batch::header::{patch, restamp, verify};
use crate::id::{Offset, Timestamp};
use crate::limits::BATCH_RECORDS_MAX;

fn timestamps() -> impl Strategy<Value = i64> {
    prop_oneof![
        1_700_000_000_000..1_700_000_900_000i64,
        any::<i64>(),
        Just(i64::MIN),
        Just(i64::MAX),
    ]
}

fn records() -> impl Strategy<Value = Vec<Told>> {
    let bytes = |max: usize| vec(any::<u8>(), 0..max);
    let header = ("[a-zé.]{0,12}", bytes(20).prop_map(Some));
    let record = (
        timestamps(),
        option::of(bytes(12)),
        bytes(300).prop_map(Some),
        vec(header, 0..5),
    )
        .prop_map(|(timestamp, key, value, headers)| Told {
            timestamp,
            key,
            value,
            headers,
        });
    vec(record, 1..40)
}

proptest! {
    #[test]
    fn records_are_read_back(told in records(), base in 0..i64::MAX - i64::from(BATCH_RECORDS_MAX)) {
        let mut batch = build_one(&told);
        patch(&mut batch, Offset::new(base).unwrap());
        restamp(&mut batch, producer(7));
        let header = verify(&batch).unwrap();

        let clamped = |record: &Told| Told {
            timestamp: record.timestamp.clamp(-TIMESTAMP_MAX, TIMESTAMP_MAX),
            ..record.clone()
        };
        let expected: Vec<Told> = told.iter().map(clamped).collect();
        prop_assert_eq!(header.record_count as usize, expected.len());
        let latest = expected.iter().map(|record| record.timestamp).max().unwrap();
        prop_assert_eq!(header.max_timestamp, Timestamp(latest));
        prop_assert_eq!(header.base_offset.get(), base);
        prop_assert_eq!(read(&batch).unwrap(), expected);
    }
}
