//! A search against the engine that answers: what has an answer is never left out.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::arrow::array::AsArray;
use datafusion::arrow::datatypes::Int64Type;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::datasource::MemTable;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::{SessionConfig, SessionContext};
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestRunner};

use super::super::columns::{Columns, as_asked};
use super::super::index::{each_term, terms};
use super::super::schema;
use super::super::tests::{Line, rows_from};
use super::*;

/// Lines as a table, and the terms of each.
struct Lines {
    context: SessionContext,
    terms: Vec<(BTreeSet<Hash>, BTreeSet<Hash>)>,
}

const ENV: &[(&str, &str)] = &[("env", "Prod")];

impl Lines {
    fn new(lines: &[String]) -> Lines {
        let values: Vec<Line<'_>> = lines.iter().map(|it| (1, ENV, it.as_bytes())).collect();
        let rows = rows_from(0, &values).as_they_are();
        let mut refused = Vec::new();
        let columns = Columns::new(&rows);
        let batch = columns.batch(0..rows.len(), None, &mut refused);
        let table = MemTable::try_new(
            schema::query(),
            vec![vec![as_asked(&batch.unwrap()).unwrap()]],
        )
        .unwrap();
        // A filter that goes to a table has its fields in it.
        let name = "datafusion.optimizer.enable_leaf_expression_pushdown";
        let config = SessionConfig::new().set_bool(name, false);
        let context = SessionContext::new_with_config(config);
        context.register_table("logs", Arc::new(table)).unwrap();
        let terms = rows.rows.iter().map(|row| {
            let record = rows.decode(row).unwrap();
            let (mut words, mut grams) = (BTreeSet::new(), BTreeSet::new());
            words.insert(terms::of_field("env", "Prod"));
            let mut add_word = |hash| {
                words.insert(hash);
            };
            let mut add_gram = |hash| {
                grams.insert(hash);
            };
            each_term(&record, &mut add_word, &mut add_gram);
            (words, grams)
        });
        Lines {
            context,
            terms: terms.collect(),
        }
    }

    /// The lines that a condition is true of; `None` where it is no condition.
    async fn answers(&self, condition: &str) -> Option<BTreeSet<usize>> {
        let sql = format!("SELECT \"offset\" FROM logs WHERE {condition}");
        let answer = self.context.sql(&sql).await.ok()?.collect().await.ok()?;
        let offsets = answer
            .iter()
            .flat_map(|it| it.column(0).as_primitive::<Int64Type>().values());
        Some(offsets.map(|&it| usize::try_from(it).unwrap()).collect())
    }

    /// The search of a condition, and which lines it leaves.
    async fn left(&self, condition: &str) -> (Search, BTreeSet<usize>) {
        let sql = format!("SELECT \"offset\" FROM logs WHERE {condition}");
        let plan = self
            .context
            .sql(&sql)
            .await
            .unwrap()
            .into_optimized_plan()
            .unwrap();
        let mut filters = Vec::new();
        plan.apply(|node| {
            match node {
                LogicalPlan::Filter(filter) => filters.push(filter.predicate.clone()),
                LogicalPlan::TableScan(scan) => filters.extend(scan.filters.iter().cloned()),
                _ => {}
            }
            Ok(TreeNodeRecursion::Continue)
        })
        .unwrap();
        let search = Search::of(&filters);
        let mut blocks = vec![true; self.terms.len()];
        let mut probe = |kind, hash: Hash, blocks: &mut [bool]| {
            for (block, (words, grams)) in blocks.iter_mut().zip(&self.terms) {
                let terms = match kind {
                    Kind::Words => words,
                    Kind::Grams => grams,
                };
                *block &= terms.contains(&hash);
            }
        };
        search.retain(&mut blocks, &mut probe);
        let left = blocks.iter().enumerate().filter(|(_, block)| **block);
        let left = left.map(|(line, _)| line).collect();
        (search, left)
    }
}

#[tokio::test]
async fn conditions_leave_out_what_cannot_pass() {
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let lines = [
        "GET /orders/7 status=500 host 10.0.0.17 done".to_owned(),
        "GET /orders/8 status=200 host 10.0.0.18 done".to_owned(),
        format!(r#"{{"user":"Ann","trace_id":"{trace}"}}"#),
    ];
    let lines = Lines::new(&lines);
    for (condition, left) in [
        ("body LIKE '%status=500 %'", &[0][..]),
        ("body ILIKE '%STATUS=500 %'", &[0]),
        ("body LIKE 'GET%host _0.0.0.1_ done'", &[0, 1]),
        ("contains(body, ' 10.0.0.17 ')", &[0]),
        ("body ~ 'orders/(7|8) status=(500|404) '", &[0, 1]),
        ("body ~ 'orders/(7|8) (status=500|status=404) '", &[0]),
        ("body ~ '/8 status=|status=404 '", &[1]),
        ("body ~* ' HOST 10'", &[0, 1]),
        ("regexp_like(body, '^GET .*=200 ')", &[1]),
        ("attributes['user'] = 'Ann'", &[2]),
        ("attributes['user'] = 'Bob'", &[]),
        ("resource_attributes['env'] = 'Prod'", &[0, 1, 2]),
        ("trace_id = '0af7651916cd43dd8448eb211c80319c'", &[2]),
        ("starts_with(body, 'GET /orders/8 ')", &[1]),
        ("body LIKE '%done' AND body LIKE '%=200 %'", &[1]),
        ("body LIKE '%=500 %' OR attributes['user'] = 'Ann'", &[0, 2]),
        ("body NOT LIKE '%=500 %'", &[0, 1, 2]),
        ("body IN ('a', 'b')", &[]),
        ("severity_number = 0", &[0, 1, 2]),
    ] {
        let (search, found) = lines.left(condition).await;
        let left: BTreeSet<usize> = left.iter().copied().collect();
        assert_eq!(found, left, "{condition}: {search:?}");
        let answers = lines.answers(condition).await.unwrap();
        assert!(answers.is_subset(&left), "{condition}: {answers:?}");
    }
}

/// Texts in which much is alike.
const TEXT: &str = "([abkKsS1.=/ _-]|[äÄſKΣσςß日]|error|10\\.0\\.0\\.1|[0-9a-f]{17}){0,9}";

fn condition() -> impl Strategy<Value = String> {
    let like = "([abkKs1.= ]|[%_]|[äſKΣσς]|error|ERROR){0,7}";
    let regex = "([abkKs1= ]|\\.|[äſKΣσς]|error|[*+?]|\\(a\\|b\\)|\\[ab\\]|\\\\\\.|\\^|\\$){0,7}";
    let leaf = prop_oneof![
        TEXT.prop_map(|text| format!("body = '{text}'")),
        (like, any::<bool>()).prop_map(|(text, ignores)| {
            let operator = if ignores { "ILIKE" } else { "LIKE" };
            format!("body {operator} '%{text}%'")
        }),
        (like, any::<bool>()).prop_map(|(text, ignores)| {
            let operator = if ignores { "ILIKE" } else { "LIKE" };
            format!("body {operator} '{text}'")
        }),
        (regex, any::<bool>()).prop_map(|(text, ignores)| {
            let operator = if ignores { "~*" } else { "~" };
            format!("body {operator} '{text}'")
        }),
        TEXT.prop_map(|text| format!("contains(body, '{text}')")),
        TEXT.prop_map(|text| format!("starts_with(body, '{text}')")),
        TEXT.prop_map(|text| format!("ends_with(body, '{text}')")),
        (TEXT, TEXT).prop_map(|(one, other)| format!("body IN ('{one}', '{other}')")),
    ];
    leaf.prop_recursive(2, 6, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} AND {b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} OR {b})")),
            inner.prop_map(|a| format!("(NOT {a})")),
        ]
    })
}

#[test]
fn i31_what_has_an_answer_is_never_left_out() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let lines = prop::collection::vec(TEXT, 1..12);
    let conditions = prop::collection::vec(condition(), 1..8);
    let mut runner = TestRunner::new(ProptestConfig::with_cases(64));
    let checked = runner.run(&(lines, conditions), |(lines, conditions)| {
        // A part of a line is more often there than what nobody has written.
        let parts = lines.iter().map(|line| {
            let letters = line.chars().count();
            let part: String = line.chars().skip(letters / 3).take(letters / 2).collect();
            format!("body ILIKE '%{}%'", part.to_uppercase())
        });
        let conditions: Vec<String> = parts.chain(conditions.clone()).collect();
        let lines = Lines::new(&lines);
        for condition in conditions {
            let Some(answers) = runtime.block_on(lines.answers(&condition)) else {
                continue;
            };
            let (search, left) = runtime.block_on(lines.left(&condition));
            if !answers.is_subset(&left) {
                let told = format!("{condition}: {answers:?} of {left:?} by {search:?}");
                return Err(TestCaseError::fail(told));
            }
        }
        Ok(())
    });
    checked.unwrap();
}
