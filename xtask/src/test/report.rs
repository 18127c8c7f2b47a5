//! Runs test programs, shows what matters of their output, and adds it up.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use crate::process::{Failure, Outcome, say};

/// A run that says nothing for this long hangs, and is ended.
const SILENCE_LIMIT: Duration = Duration::from_secs(600);

/// Up to so many failed tests of a run are tried again, alone. More at once are no accident of a busy machine.
const MOST_TRIED_AGAIN: usize = 3;

/// The sum of several runs.
pub(crate) struct Report {
    /// Shows a line.
    tell: fn(&str),
    allowed_skips: Vec<String>,
    skips: BTreeSet<String>,
    passed: u64,
    failed: u64,
    /// Tests that failed beside the others and passed alone.
    unstable: Vec<String>,
    broken: Vec<String>,
}

/// What one run of test programs came to.
#[derive(Default)]
struct Results {
    passed: u64,
    failed: u64,
    /// The tests that failed, by name.
    failures: Vec<String>,
    /// What is wrong beside failed tests.
    broken: Option<String>,
}

impl Report {
    /// `allowed_skips` are lines `pass: beginning of the reason`.
    pub(crate) fn new(allowed_skips: Vec<String>) -> Self {
        Self {
            tell: say,
            allowed_skips,
            skips: BTreeSet::new(),
            passed: 0,
            failed: 0,
            unstable: Vec::new(),
            broken: Vec::new(),
        }
    }

    /// Runs the command that `make` makes of arguments for the test programs, as the pass called `pass`, and counts
    /// its tests.
    ///
    /// A few tests that failed are run again, one after the other, with nothing beside them. What passes then is
    /// told at the end, in as many words, and does not count as failed: most of these tests start processes, and two
    /// busy processors bring out every race that a test has.
    ///
    /// # Errors
    /// The program cannot be started. A failing test is no error here; see
    /// [`Report::finish`].
    pub(crate) fn add(
        &mut self,
        pass: &str,
        filters: &[&str],
        make: &dyn Fn(&[&str]) -> Outcome<Command>,
    ) -> Outcome {
        let mut results = self.run(pass, &mut make(filters)?)?;
        let again: Vec<String> = results.failures.clone();
        if (1..=MOST_TRIED_AGAIN).contains(&again.len()) && results.broken.is_none() {
            let names = again.iter().map(String::as_str);
            let alone: Vec<&str> = ["--exact", "--test-threads=1"]
                .into_iter()
                .chain(names)
                .collect();
            let second = self.run(pass, &mut make(&alone)?)?;
            let is_unstable = |name: &&String| !second.failures.contains(name);
            let unstable: Vec<&String> = again.iter().filter(is_unstable).collect();
            if second.passed + second.failed == results.failed {
                results.passed += second.passed;
                results.failed = second.failed;
                self.unstable
                    .extend(unstable.iter().map(|name| format!("{pass}: {name}")));
            }
            results.broken = second.broken;
        }
        self.passed += results.passed;
        self.failed += results.failed;
        self.broken.extend(results.broken);
        Ok(())
    }

    fn run(&mut self, pass: &str, command: &mut Command) -> Outcome<Results> {
        let program = command.get_program().to_os_string();
        (self.tell)(&format!(
            "== tests as {pass}: {}",
            program.to_string_lossy()
        ));
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| Failure::io(&program, &error))?;
        let mut results = Results::default();
        let in_time = self.read_lines(pass, &mut child, &mut results);
        if !in_time {
            kill_with_descendants(child.id());
            results.broken = Some(format!(
                "`{}` said nothing for {} s and was killed",
                program.to_string_lossy(),
                SILENCE_LIMIT.as_secs()
            ));
        }
        let status = child
            .wait()
            .map_err(|error| Failure::io(&program, &error))?;
        if !status.success() && results.failed == 0 && in_time {
            results.broken = Some(format!("`{}`: {status}", program.to_string_lossy()));
        }
        Ok(results)
    }

    /// Reads the child's lines until it closes them; false if it fell silent.
    fn read_lines(&mut self, pass: &str, child: &mut Child, results: &mut Results) -> bool {
        let output = child.stdout.take().expect("standard output is a pipe");
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n') {
                let Ok(line) = line else { break };
                if sender
                    .send(String::from_utf8_lossy(&line).into_owned())
                    .is_err()
                {
                    break;
                }
            }
        });
        // `--show-output` is asked for the sake of `SKIP:` lines; the rest of
        // what passing tests wrote is of no interest.
        let mut in_successes = false;
        loop {
            match lines.recv_timeout(SILENCE_LIMIT) {
                Ok(line) => {
                    self.count(pass, &line, results);
                    match line.as_str() {
                        "successes:" => in_successes = true,
                        "failures:" => in_successes = false,
                        _ if line.starts_with("test result:") => in_successes = false,
                        _ => {}
                    }
                    if !in_successes && !line.is_empty() {
                        (self.tell)(&line);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return true,
                Err(RecvTimeoutError::Timeout) => return false,
            }
        }
    }

    fn count(&mut self, pass: &str, line: &str, results: &mut Results) {
        if let Some((_, reason)) = line.split_once("SKIP: ") {
            self.skips.insert(format!("{pass}: {}", reason.trim()));
        }
        let failed = line.strip_prefix("test ");
        if let Some(name) = failed.and_then(|rest| rest.strip_suffix(" ... FAILED")) {
            results.failures.push(name.to_owned());
        }
        if let Some(result) = line.strip_prefix("test result:") {
            results.passed += number_before(result, " passed");
            results.failed += number_before(result, " failed");
        }
    }

    /// Says what happened, and whether it is good.
    ///
    /// # Errors
    /// A test failed, a skip was not expected, or `left` is not empty.
    pub(crate) fn finish(mut self, left: &[String]) -> Outcome {
        for skip in &self.skips {
            if self
                .allowed_skips
                .iter()
                .any(|allowed| skip.starts_with(allowed))
            {
                (self.tell)(&format!("skipped, as expected: {skip}"));
            } else {
                self.broken.push(format!(
                    "skipped, and not on the list in tests/skips.txt: {skip}"
                ));
            }
        }
        self.broken
            .extend(left.iter().map(|thing| format!("left behind: {thing}")));
        for problem in &self.broken {
            (self.tell)(problem);
        }
        for test in &self.unstable {
            (self.tell)(&format!(
                "unstable, failed beside the others and passed alone: {test}"
            ));
        }
        (self.tell)(&format!("{} passed, {} failed", self.passed, self.failed));
        if self.failed > 0 {
            return Err(Failure(format!("{} tests failed", self.failed)));
        }
        if self.passed == 0 {
            return Err(Failure::new("no test ran"));
        }
        match self.broken.as_slice() {
            [] => Ok(()),
            [only] => Err(Failure(only.clone())),
            [first, rest @ ..] => Err(Failure(format!("{first}, and {} more", rest.len()))),
        }
    }
}

/// The number in front of `word`: 12 in `ok. 12 passed; 0 failed`.
fn number_before(text: &str, word: &str) -> u64 {
    let Some((before, _)) = text.split_once(word) else {
        return 0;
    };
    let digits = before.rsplit(' ').next().unwrap_or_default();
    digits.parse().unwrap_or(0)
}

/// Ends a process and all that came from it.
fn kill_with_descendants(process: u32) {
    let path = format!("/proc/{process}/task/{process}/children");
    for child in fs::read_to_string(path)
        .unwrap_or_default()
        .split_whitespace()
    {
        if let Ok(child) = child.parse() {
            kill_with_descendants(child);
        }
    }
    let killed = Command::new("kill")
        .args(["-KILL", &process.to_string()])
        .status();
    if let Err(error) = killed {
        say(&format!("`kill`: {error}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What these tests say would be counted by the run that they are part of.
    fn silent(allowed_skips: &[&str]) -> Report {
        let allowed = allowed_skips.iter().map(|line| (*line).to_owned());
        Report {
            tell: |_line| {},
            ..Report::new(allowed.collect())
        }
    }

    /// A shell script as a test program: it is given the arguments that the program would be.
    fn add(report: &mut Report, script: &str) {
        let make = |arguments: &[&str]| {
            let mut command = Command::new("sh");
            command.args(["-c", script, "sh"]).args(arguments);
            Ok(command)
        };
        report.add("root", &[], &make).unwrap();
    }

    #[test]
    fn results_are_added_up() {
        let mut report = silent(&[]);
        add(
            &mut report,
            "echo 'test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured'
             echo 'test result: FAILED. 3 passed; 2 failed; 0 ignored'; exit 101",
        );
        assert_eq!((report.passed, report.failed), (15, 2));
        assert!(report.finish(&[]).is_err());
    }

    #[test]
    fn what_passes_alone_is_told_and_what_fails_again_has_failed() {
        let mut report = silent(&[]);
        let script = "if [ $# = 0 ]; then
             echo 'test a::one ... FAILED'; echo 'test b::two ... FAILED'
             echo 'test result: FAILED. 3 passed; 2 failed; 0 ignored'
         else
             [ \"$*\" = '--exact --test-threads=1 a::one b::two' ] || exit 2
             echo 'test a::one ... ok'; echo 'test b::two ... FAILED'
             echo 'test result: FAILED. 1 passed; 1 failed; 0 ignored'
         fi; exit 101";
        add(&mut report, script);
        assert_eq!((report.passed, report.failed), (4, 1));
        assert_eq!(report.unstable, ["root: a::one"]);
        assert!(report.finish(&[]).is_err());
    }

    #[test]
    fn many_failures_are_not_tried_again() {
        let mut report = silent(&[]);
        let script = "if [ $# = 0 ]; then
             for test in a b c d; do echo \"test $test ... FAILED\"; done
             echo 'test result: FAILED. 0 passed; 4 failed; 0 ignored'; exit 101
         fi
         echo 'test result: ok. 4 passed; 0 failed; 0 ignored'";
        add(&mut report, script);
        assert_eq!((report.passed, report.failed), (0, 4));
    }

    #[test]
    fn a_program_that_fails_without_a_failed_test_is_an_error() {
        let mut report = silent(&[]);
        add(
            &mut report,
            "echo 'test result: ok. 12 passed; 0 failed'; exit 101",
        );
        assert!(report.finish(&[]).is_err());
    }

    #[test]
    fn an_unexpected_skip_is_an_error_and_an_expected_one_is_not() {
        let run = |allowed: &[&str]| {
            let mut report = silent(allowed);
            add(
                &mut report,
                "echo 'test result: ok. 1 passed; 0 failed'; echo 'SKIP: needs root'",
            );
            report.finish(&[])
        };
        assert!(run(&["root: needs root"]).is_ok());
        assert!(run(&["user: needs root"]).is_err());
    }

    #[test]
    fn a_leftover_is_an_error() {
        let mut report = silent(&[]);
        add(&mut report, "echo 'test result: ok. 1 passed; 0 failed'");
        assert!(report.finish(&["mount /tmp/x".to_owned()]).is_err());
    }
}
