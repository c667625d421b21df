//! The search index's footer: anybody may have written the Parquet file that it stands in.

use query::lake::index::{Footer, Place};
use weir_tests::fuzz::fuzz;

#[test]
fn a_footer_is_read_or_refused() {
    let footer = Footer {
        version: 1,
        block_rows: 8192,
        blocks: 3,
        words: Place {
            offset: 100,
            rows: 2,
        },
        grams: Place {
            offset: 292,
            rows: 1,
        },
    };
    let samples = [serde_json::to_vec(&footer).unwrap()];
    fuzz("index", &samples, |bytes| {
        let end = 1000;
        match Footer::parse(&String::from_utf8_lossy(bytes), end) {
            Err(refusal) => refusal.to_string(),
            Ok(read) => {
                for hash in [0, 1 << 63, u64::MAX] {
                    for place in [read.words, read.grams] {
                        let row = read.row_of(place, hash);
                        assert!(row.is_none_or(|it| it.start <= it.end && it.end <= end));
                    }
                }
                "read".to_owned()
            }
        }
    });
}
