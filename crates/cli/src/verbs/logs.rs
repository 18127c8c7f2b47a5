//! `kiln logs`: what a container wrote.

use std::io::{self, Write};
use std::time::Duration;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use kiln_manifest::value::TimeSpan;
use kiln_runtime::{LogEntry, LogFilter, LogReader, Stream};
use rustix::event::Timespec;
use rustix::fs::inotify;

use crate::containers::find;
use crate::errors::{Class, Failure, Outcome};
use crate::local;
use crate::printer::Printer;
use crate::settings::Settings;
use crate::tasks;

/// Show what a container wrote
///
/// What it wrote to standard error goes there, too.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln logs web
  kiln logs -f --tail 10 web
  kiln logs --since 10m -t web
  kiln logs --since 2026-11-26T15:00:00Z --until 2026-11-26T16:00:00Z web")]
pub(crate) struct Args {
    /// Name or id
    container: String,

    /// Go on as long as the container runs
    #[arg(short, long)]
    follow: bool,

    /// Not what was written before this: a time, or so long ago
    #[arg(long, value_name = "TIME", value_parser = When::parse)]
    since: Option<When>,

    /// Not what was written after this: a time, or so long ago
    #[arg(long, value_name = "TIME", value_parser = When::parse)]
    until: Option<When>,

    /// Only so many lines at the end
    #[arg(short = 'n', long, value_name = "NUMBER", default_value = "all", value_parser = tail)]
    tail: Tail,

    /// Show when each line was written
    #[arg(short, long)]
    timestamps: bool,
}

/// How many lines.
#[derive(Clone, Copy, Debug)]
struct Tail(Option<usize>);

fn tail(text: &str) -> Result<Tail, String> {
    match text {
        "all" => Ok(Tail(None)),
        number => number
            .parse()
            .map(|number| Tail(Some(number)))
            .map_err(|_not_a_number| "write a number, or all".to_owned()),
    }
}

/// A point in time as it is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    At(Timestamp),
    Ago(Duration),
}

impl When {
    /// Reads an RFC 3339 time, seconds since 1970, or a time span; a day or a time of day without a zone is that of this
    /// machine's zone.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if let Ok(span) = TimeSpan::parse(text) {
            return Ok(Self::Ago(span.0));
        }
        if let Ok(time) = text.parse::<Timestamp>() {
            return Ok(Self::At(time));
        }
        if let Some(time) = of_this_zone(text) {
            return Ok(Self::At(time));
        }
        let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
        let digits = fraction.len() <= 9 && fraction.bytes().all(|byte| byte.is_ascii_digit());
        let nanoseconds = format!("{fraction:0<9}").parse::<i32>().ok();
        let time = seconds
            .parse::<i64>()
            .ok()
            .zip(nanoseconds.filter(|_| digits));
        time.and_then(|(seconds, nanoseconds)| Timestamp::new(seconds, nanoseconds).ok())
            .map(Self::At)
            .ok_or_else(|| {
                "write a time such as 2026-11-26T15:00:00Z or 2026-11-26, seconds since 1970, or 10m for ten minutes ago".to_owned()
            })
    }

    /// The point in time, seen from `now`.
    pub(crate) fn resolve(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(time) => time,
            Self::Ago(span) => {
                let span = Span::try_from(span).unwrap_or_default();
                now.checked_sub(span).unwrap_or(Timestamp::MIN)
            }
        }
    }
}

/// A day, or a time of a day, in this machine's zone. A number alone is none.
fn of_this_zone(text: &str) -> Option<Timestamp> {
    let is_day = text.as_bytes().get(4) == Some(&b'-');
    let says_zone = text.get(10..)?.contains(['Z', 'z', '[', '+', '-']);
    let time = text.parse::<DateTime>().ok();
    let time = time.filter(|_| is_day && !says_zone)?;
    TimeZone::system().to_timestamp(time).ok()
}

/// How long to wait for more at most before looking whether the container still runs.
const PAUSE: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};

/// Prints it.
pub(crate) fn run(args: &Args, settings: &Settings, _printer: &mut Printer) -> Outcome {
    let store = local::open(settings)?;
    let container = find(&store, &args.container)?;
    if !container.config.log.kept {
        let message = "the output of this container is not kept (--log-driver none)";
        return Err(Failure::message(Class::User, message, None));
    }
    let now = tasks::clock();
    let filter = LogFilter {
        since: args.since.map(|time| time.resolve(now)),
        until: args.until.map(|time| time.resolve(now)),
        tail: args.tail.0,
    };
    let containers = store.containers();
    let folder = containers.folder(container.id());
    let unreadable = |error: io::Error| {
        let message = format!("the log of {} cannot be read: {error}", args.container);
        Failure::message(Class::Environment, message, None)
    };
    // Watched before it is read, so that nothing is missed.
    let watch = if args.follow {
        let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)
            .map_err(|error| unreadable(error.into()))?;
        let events = inotify::WatchFlags::MODIFY
            | inotify::WatchFlags::CREATE
            | inotify::WatchFlags::MOVED_TO
            | inotify::WatchFlags::MOVE_SELF;
        inotify::add_watch(&watch, &folder, events).map_err(|error| unreadable(error.into()))?;
        Some(watch)
    } else {
        None
    };
    let mut reader = LogReader::open(&folder, filter).map_err(unreadable)?;
    let mut output = Output::new(args.timestamps);
    loop {
        // Asked before the last look: what is written before the end is seen.
        let is_over = !containers.is_claimed(container.id())?;
        for entry in &mut reader {
            output.write(&entry.map_err(unreadable)?)?;
        }
        output.flush()?;
        let is_late = filter.until.is_some_and(|until| tasks::clock() >= until);
        let Some(watch) = watch.as_ref().filter(|_| !is_over && !is_late) else {
            return Ok(());
        };
        let mut polls = [rustix::event::PollFd::new(
            watch,
            rustix::event::PollFlags::IN,
        )];
        let ready = rustix::io::retry_on_intr(|| rustix::event::poll(&mut polls, Some(&PAUSE)));
        if ready.map_err(|error| unreadable(error.into()))? > 0 {
            let mut buffer = [0_u8; 4096];
            // What happened does not matter, only that something did.
            match rustix::io::read(watch, &mut buffer) {
                Ok(_) | Err(rustix::io::Errno::AGAIN) => {}
                Err(error) => return Err(unreadable(error.into())),
            }
        }
    }
}

struct Output {
    timestamps: bool,
    stdout: io::BufWriter<io::StdoutLock<'static>>,
    stderr: io::BufWriter<io::StderrLock<'static>>,
    /// Whether the next entry of each begins a line.
    fresh: [bool; 2],
}

impl Output {
    fn new(timestamps: bool) -> Self {
        Self {
            timestamps,
            stdout: io::BufWriter::new(io::stdout().lock()),
            stderr: io::BufWriter::new(io::stderr().lock()),
            fresh: [true; 2],
        }
    }

    fn write(&mut self, entry: &LogEntry) -> Outcome {
        let (target, index): (&mut dyn Write, usize) = match entry.stream {
            Stream::Stdout => (&mut self.stdout, 0),
            Stream::Stderr => (&mut self.stderr, 1),
        };
        let mut text = String::new();
        if self.timestamps && self.fresh[index] {
            text = format!("{:.9} ", entry.time);
        }
        self.fresh[index] = entry.log.ends_with('\n');
        text.push_str(&entry.log);
        target.write_all(text.as_bytes()).map_err(Failure::output)
    }

    fn flush(&mut self) -> Outcome {
        let flushed = self.stdout.flush().and_then(|()| self.stderr.flush());
        flushed.map_err(Failure::output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_points_or_spans() {
        let at = |seconds, nanoseconds| {
            When::At(Timestamp::new(seconds, nanoseconds).expect("in range"))
        };
        assert_eq!(
            When::parse("2026-01-01T00:00:00Z"),
            Ok(at(1_767_225_600, 0))
        );
        assert_eq!(When::parse("1767225600"), Ok(at(1_767_225_600, 0)));
        // A number is not a day.
        assert_eq!(When::parse("20260101"), Ok(at(20_260_101, 0)));
        assert_eq!(When::parse("5.25"), Ok(at(5, 250_000_000)));
        let here = |text: &str| {
            let time: DateTime = text.parse().expect("a time");
            let time = TimeZone::system().to_timestamp(time);
            Ok(When::At(time.expect("there is one")))
        };
        for text in [
            "2026-01-01",
            "2026-01-01T10:00",
            "2026-01-01T10:00:05",
            "2026-01-01T10:00:05.25",
        ] {
            assert_eq!(When::parse(text), here(text), "{text}");
        }
        let ten_minutes = When::Ago(Duration::from_secs(600));
        assert_eq!(When::parse("10m"), Ok(ten_minutes));
        let now = Timestamp::new(1000, 0).expect("in range");
        assert_eq!(ten_minutes.resolve(now).as_second(), 400);
        for text in [
            "",
            "yesterday",
            "1.x",
            "10 minutes",
            "2026-13-01",
            "2026-01-01T10:00+99:00",
        ] {
            assert!(When::parse(text).is_err(), "{text}");
        }
    }
}
