//! The commands, one file each: its options, its examples, its work. A new one is a file, a `mod`
//! line and a line in [`COMMANDS`]; help and completions are derived from that list.

mod agents;
mod completions;
mod groups;
mod log;
mod serve;
mod tail;
mod token;
mod topics;
mod up;

use clap::{ArgMatches, CommandFactory, FromArgMatches};

/// One command: what it accepts is its own fields, what it does is [`Run::run`].
trait Run: CommandFactory + FromArgMatches {
    /// Does it. An error is told by `main`.
    fn run(self) -> anyhow::Result<()>;
}

/// A line of the list.
struct Entry {
    command: fn() -> clap::Command,
    run: fn(&ArgMatches) -> anyhow::Result<()>,
}

const fn entry<C: Run>() -> Entry {
    Entry {
        command: C::command,
        run: |matches| C::from_arg_matches(matches)?.run(),
    }
}

/// Every command, in the order that help shows.
const COMMANDS: &[Entry] = &[
    entry::<up::Up>(),
    entry::<serve::Serve>(),
    entry::<tail::Tail>(),
    entry::<topics::Topics>(),
    entry::<agents::Agents>(),
    entry::<groups::Groups>(),
    entry::<token::Token>(),
    entry::<log::Log>(),
    entry::<completions::Completions>(),
];

/// Reads the command line and does what it says. Wrong usage ends the process with code 2.
pub(crate) fn run() -> anyhow::Result<()> {
    let matches = command().get_matches();
    let (name, matches) = matches.subcommand().expect("clap requires a subcommand");
    let entry = COMMANDS
        .iter()
        .find(|entry| (entry.command)().get_name() == name);
    let entry = entry.expect("clap knows no subcommand but those of the list");
    (entry.run)(matches)
}

/// The whole command line as clap sees it.
fn command() -> clap::Command {
    clap::Command::new("weir")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Moves logs from many hosts into one place and loses none on the way")
        .after_help(EXAMPLES)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true)
        .max_term_width(100)
        .subcommands(COMMANDS.iter().map(|entry| (entry.command)()))
}

const EXAMPLES: &str = "\
Examples:
  weir up                                everything in one process, no configuration
  weir tail logs --from beginning        what has arrived so far
  weir tail logs --follow                … and what arrives from now on

`weir COMMAND --help` has examples for each.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        command().debug_assert();
    }

    #[test]
    fn every_command_has_examples() {
        for entry in COMMANDS {
            let command = (entry.command)();
            let help = command.get_after_help().map(ToString::to_string);
            assert!(
                help.is_some_and(|help| help.starts_with("Examples:\n")),
                "`weir {}` shows no examples",
                command.get_name()
            );
            assert!(command.get_about().is_some());
        }
    }
}
