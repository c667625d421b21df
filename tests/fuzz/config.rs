//! Configuration files. Whatever they hold, loading answers with a configuration or with problems that
//! have a place in the file and cannot steer a terminal.

use agent::config::AgentConfig;
use aggregator::config::AggregatorConfig;
use config::environment::EmptyEnvironment;
use config::fields::Section;
use config::load::load_source;
use config::problem::Source;
use weir_tests::fuzz::fuzz;

#[test]
fn a_configuration_is_loaded_or_its_problems_are_told() {
    fuzz("config", &samples(), |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let agent = load::<AgentConfig>(&text);
        let aggregator = load::<AggregatorConfig>(&text);
        format!("{agent}; {aggregator}")
    });
}

fn load<C: Section>(text: &str) -> String {
    let source = Source {
        path: "fuzzed.yaml".into(),
        text: text.to_owned(),
    };
    match load_source::<C>(source, &EmptyEnvironment) {
        Ok(_) => "loaded".to_owned(),
        Err(problems) => {
            assert!(!problems.list.is_empty());
            // A YAML parser ends lines at a lone carriage return too.
            let lines = text.split(['\n', '\r']).count() + 1;
            for problem in &problems.list {
                assert!(
                    (1..=lines).contains(&(problem.span.line as usize)),
                    "{problem:?}"
                );
                assert!(problem.span.column >= 1, "{problem:?}");
            }
            let told = problems.to_string();
            assert!(
                !told.contains(|c: char| c.is_control() && c != '\n'),
                "{told:?}"
            );
            let words: Vec<&str> = problems
                .list
                .iter()
                .map(|problem| problem.message.as_str())
                .collect();
            words.join("; ")
        }
    }
}

fn samples() -> Vec<Vec<u8>> {
    let texts = [
        "logs: {app: {files: [/a]}}",
        "data_dir: ${env:X:-/d}\nlisten: {quic: 1.2.3.4:5}\n",
        "a: &a [1]\nb: *a\n---\nc: !!str |\n  text\n",
        "? key\n: - 'x'\n  - \"\\u0041\\e\"\n# comment\n",
        include_str!("../../config/agent.yaml"),
        include_str!("../../config/aggregator.yaml"),
    ];
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}
