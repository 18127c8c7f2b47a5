//! Which failures are worth another try, and how long to wait before it.

use std::time::Duration;

use crate::cancel::Cancel;
use crate::error::Error;
use crate::request::Request;
use crate::settings::RetryPolicy;

/// A wait that whoever waits wants to know of.
const LONG: Duration = Duration::from_secs(2);

/// A failed try, and whether another may end better.
#[derive(Debug)]
#[must_use]
pub struct Failure {
    /// What went wrong. Boxed: it is large, and failures are rare.
    pub error: Box<Error>,
    pub(crate) again: Again,
}

/// What to do after a failed try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Again {
    /// Nothing: the next try would end the same.
    Never,
    /// Try once more at once: a kept connection that the server had closed looks like this.
    AtOnce,
    /// Try after a wait that grows.
    Later,
    /// Try when the server said, or after a wait that grows.
    After(Option<Duration>),
}

impl Failure {
    pub(crate) fn new(error: impl Into<Error>, again: Again) -> Self {
        Self {
            error: Box::new(error.into()),
            again,
        }
    }

    pub(crate) fn last(error: impl Into<Error>) -> Self {
        Self::new(error, Again::Never)
    }

    /// Returns the failure of a protocol above HTTP, for which waiting a while may help.
    pub fn later(error: Error) -> Self {
        Self::new(error, Again::Later)
    }

    /// Tells whether another try may end better.
    pub fn may_pass(&self) -> bool {
        self.again != Again::Never
    }
}

impl<E: Into<Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::last(error)
    }
}

/// Counts the tries of one request, or of one piece of work that takes several.
#[derive(Debug)]
pub struct Attempts<'a> {
    policy: &'a RetryPolicy,
    /// Whom is asked, for messages.
    authority: String,
    most: u32,
    bears_silence: bool,
    longest_retry_after: Duration,
    /// How much of that is used up.
    obeyed: Duration,
    /// Seed of this request's waits.
    random: u64,
    failed: u32,
    at_once_used: bool,
}

impl<'a> Attempts<'a> {
    /// Starts counting for `request`, whose address sets its waits apart from those of others.
    pub(crate) fn new(policy: &'a RetryPolicy, request: &Request) -> Self {
        let address = request.url.to_string();
        let random = address.bytes().fold(policy.seed, |state, byte| {
            mixed(state.wrapping_add(u64::from(byte)))
        });
        let patience = &request.patience;
        Self {
            policy,
            authority: request.url.authority(),
            most: policy.tries.min(patience.tries).max(1),
            bears_silence: patience.bears_silence(),
            longest_retry_after: policy.longest_retry_after.min(patience.retry_after),
            obeyed: Duration::ZERO,
            random,
            failed: 0,
            at_once_used: false,
        }
    }

    /// Starts counting anew, after a try that made progress.
    pub fn reset(&mut self) {
        self.failed = 0;
        self.obeyed = Duration::ZERO;
        self.at_once_used = false;
    }

    /// Waits before the next try, if there is to be one, and tells of it if that is long. Blocks.
    ///
    /// # Errors
    /// The failure, with the number of tries, when there is none; [`Error::Cancelled`].
    pub fn wait(&mut self, failure: Failure, cancel: &Cancel) -> Result<(), Error> {
        // Whatever went wrong after a cancellation was caused by it.
        cancel.check()?;
        self.failed += 1;
        let is_silence = matches!(*failure.error, Error::Timeout { .. });
        let delay = match failure.again {
            Again::Later if is_silence && !self.bears_silence => {
                return Err(failure.error.after_tries(self.failed));
            }
            Again::Never => return Err(failure.error.after_tries(self.failed)),
            Again::AtOnce if !self.at_once_used => {
                self.at_once_used = true;
                self.failed -= 1;
                Duration::ZERO
            }
            Again::After(Some(wait))
                if self.obeyed.saturating_add(wait) > self.longest_retry_after =>
            {
                return Err(failure.error.after_tries(self.failed));
            }
            Again::After(Some(wait)) => {
                self.obeyed += wait;
                wait
            }
            Again::AtOnce | Again::Later | Again::After(None) => self.backed_off(),
        };
        if self.failed >= self.most {
            return Err(failure.error.after_tries(self.failed));
        }
        self.tell(&failure, is_silence, delay);
        Ok(cancel.sleep(delay)?)
    }

    /// Says what is waited for: once for all requests that have been turned away as often by the same host.
    fn tell(&self, failure: &Failure, is_silence: bool, delay: Duration) {
        let (error, authority) = (&failure.error, &self.authority);
        let next = format!("try {} of {}", self.failed + 1, self.most);
        let once = format!("{authority}: {next}");
        if is_silence {
            tracing::warn!(once, "{error}; trying again ({next})");
        } else if delay >= LONG && matches!(failure.again, Again::After(Some(_))) {
            let seconds = delay.as_secs();
            tracing::warn!(
                once,
                "`{authority}` wants to be asked again in {seconds} s: waiting ({next})"
            );
        } else {
            tracing::debug!("trying again in {delay:?}: {error}");
        }
    }

    fn backed_off(&mut self) -> Duration {
        let doublings = self.failed.saturating_sub(1).min(16);
        let longest = self
            .policy
            .first_delay
            .saturating_mul(1 << doublings)
            .min(self.policy.longest_delay);
        self.random = mixed(self.random);
        let half = longest / 2;
        let nanoseconds = u64::try_from(half.as_nanos()).unwrap_or(u64::MAX);
        half + Duration::from_nanos(self.random % nanoseconds.max(1))
    }
}

/// One step of splitmix64.
fn mixed(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Reads a `Retry-After` header: seconds, or a date, which is measured against the server's own
/// `Date` header so that the two clocks need not agree.
pub(crate) fn retry_after(value: Option<&str>, date: Option<&str>) -> Option<Duration> {
    let value = value?.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let at = httpdate::parse_http_date(value).ok()?;
    let now = httpdate::parse_http_date(date?.trim()).ok()?;
    Some(at.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(again: Again) -> Failure {
        let error = Error::RateLimited {
            url: String::new(),
            retry_after: None,
            tries: 0,
            body: crate::error::BodyText::default(),
        };
        Failure::new(error, again)
    }

    fn tries(error: &Error) -> u32 {
        let Error::RateLimited { tries, .. } = error else {
            panic!("{error}")
        };
        *tries
    }

    fn request() -> Request {
        Request::get("https://h/".parse().unwrap())
    }

    const POLICY: RetryPolicy = RetryPolicy {
        tries: 3,
        first_delay: Duration::from_millis(2),
        longest_delay: Duration::from_millis(5),
        longest_retry_after: Duration::from_secs(9),
        seed: 1,
    };

    #[test]
    fn tries_are_counted_and_end() {
        let cancel = Cancel::new();
        let mut attempts = Attempts::new(&POLICY, &request());
        attempts.wait(failure(Again::AtOnce), &cancel).unwrap();
        attempts.wait(failure(Again::Later), &cancel).unwrap();
        attempts.wait(failure(Again::AtOnce), &cancel).unwrap();
        let error = attempts.wait(failure(Again::Later), &cancel).unwrap_err();
        assert_eq!(tries(&error), 3);
        attempts.reset();
        attempts.wait(failure(Again::Later), &cancel).unwrap();
        let error = attempts.wait(failure(Again::Never), &cancel).unwrap_err();
        assert_eq!(tries(&error), 2);
    }

    #[test]
    fn a_long_retry_after_is_reported_and_not_waited_for() {
        let cancel = Cancel::new();
        let mut attempts = Attempts::new(&POLICY, &request());
        let again = Again::After(Some(Duration::from_secs(10)));
        assert_eq!(
            tries(&attempts.wait(failure(again), &cancel).unwrap_err()),
            1
        );
    }

    #[test]
    fn what_servers_say_is_waited_for_up_to_a_limit_in_all() {
        let cancel = Cancel::new();
        let policy = RetryPolicy {
            longest_retry_after: Duration::from_millis(5),
            tries: 9,
            ..POLICY
        };
        let mut attempts = Attempts::new(&policy, &request());
        let said = || failure(Again::After(Some(Duration::from_millis(2))));
        attempts.wait(said(), &cancel).unwrap();
        attempts.wait(said(), &cancel).unwrap();
        assert_eq!(tries(&attempts.wait(said(), &cancel).unwrap_err()), 3);
    }

    #[test]
    fn waits_grow_to_a_limit_and_differ_by_seed() {
        let waits = |seed| {
            let policy = RetryPolicy { seed, ..POLICY };
            let mut attempts = Attempts::new(&policy, &request());
            (1..=5)
                .map(|failed| {
                    attempts.failed = failed;
                    attempts.backed_off()
                })
                .collect::<Vec<_>>()
        };
        for (wait, longest) in waits(7).into_iter().zip([2, 4, 5, 5, 5]) {
            let longest = Duration::from_millis(longest);
            assert!(
                wait >= longest / 2 && wait <= longest,
                "{wait:?} {longest:?}"
            );
        }
        assert_eq!(waits(7), waits(7));
        assert_ne!(waits(7), waits(8));
    }

    #[test]
    fn retry_after_is_read_in_both_forms() {
        let date = Some("Sun, 06 Nov 1994 08:49:37 GMT");
        let later = Some("Sun, 06 Nov 1994 08:50:07 GMT");
        assert_eq!(
            retry_after(Some("120"), None),
            Some(Duration::from_secs(120))
        );
        assert_eq!(retry_after(later, date), Some(Duration::from_secs(30)));
        assert_eq!(retry_after(date, later), Some(Duration::ZERO));
        assert_eq!(retry_after(later, None), None);
        assert_eq!(retry_after(Some("-1"), date), None);
        assert_eq!(retry_after(Some("soon"), date), None);
        assert_eq!(retry_after(None, date), None);
        assert!(
            retry_after(Some("99999999999999999999999"), None).unwrap()
                > Duration::from_secs(1 << 40)
        );
    }
}
