//! What was probably meant.

/// The word nearest to `written` by edit distance, when it is near enough to have been meant.
pub(crate) fn nearest<'a>(written: &str, words: &[&'a str]) -> Option<&'a str> {
    let lower = written.to_lowercase();
    let (distance, word) = words
        .iter()
        .map(|word| (distance(&lower, &word.to_lowercase()), *word))
        .min_by_key(|(distance, _)| *distance)?;
    let longer = written.chars().count().max(word.chars().count());
    (distance * 5 <= longer * 2).then_some(word)
}

/// Insertions, deletions, replacements and swaps of neighbours that make `b` of `a` (optimal
/// string alignment). Texts past 64 characters are cut: no key is as long.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().take(64).collect();
    let b: Vec<char> = b.chars().take(64).collect();
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let mut best = (last[j] + usize::from(x != y))
                .min(last[j + 1] + 1)
                .min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                best = best.min(before_last[j - 1] + 1);
            }
            row.push(best);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_is_understood() {
        let words = ["files", "exclude", "topic", "labels", "start_at"];
        for (written, meant) in [
            ("file", Some("files")),
            ("fiels", Some("files")),
            ("Topic", Some("topic")),
            ("startat", Some("start_at")),
            ("lables", Some("labels")),
            ("compression", None),
            ("", None),
        ] {
            assert_eq!(nearest(written, &words), meant, "{written}");
        }
    }
}
