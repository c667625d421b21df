//! `weir completions`: what a shell needs to complete the rest.

use std::io;

use super::Run;

/// Print a shell's completion script
#[derive(Debug, clap::Parser)]
#[command(name = "completions", after_help = EXAMPLES)]
pub(super) struct Completions {
    /// The shell to print for
    #[arg(value_name = "SHELL")]
    shell: clap_complete::Shell,
}

const EXAMPLES: &str = "\
Examples:
  weir completions bash > /etc/bash_completion.d/weir
  weir completions zsh > \"${fpath[1]}/_weir\"
  weir completions fish > ~/.config/fish/completions/weir.fish";

impl Run for Completions {
    fn run(self) -> anyhow::Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut super::command(), "weir", &mut script);
        Ok(io::Write::write_all(&mut io::stdout(), &script)?)
    }
}
