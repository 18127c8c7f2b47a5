//! The worker threads: they call the executor and report, whatever happens in the call.
//!
//! Knows nothing of the graph's shape or of states. A worker owns nothing between jobs.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, SyncSender, TrySendError, channel, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::{Builder, Scope};

use kiln_graph::{BuildGraph, StepId};

use crate::cancel::Cancel;
use crate::event::FailureKind;
use crate::executor::{Described, Executor, Failure, LookUp, NodeOutput, Outputs, Task};
use crate::reporter::{Report, Reporter};

/// How many messages may wait for the scheduler. When it is behind, steps that write much are slowed
/// down instead of filling the memory.
const MESSAGES_WAITING: usize = 1024;

/// One call into the executor.
#[derive(Debug)]
pub(crate) enum Job<I> {
    Check(StepId),
    Run(StepId, Described<I>),
}

/// What comes back to the scheduler.
#[derive(Debug)]
pub(crate) enum Message<I> {
    Report(StepId, Report),
    Checked(StepId, Result<(Described<I>, LookUp), Failure>),
    Ran(StepId, Result<NodeOutput, Failure>),
}

/// What every worker reads.
#[derive(Debug)]
pub(crate) struct Shared<'a, E> {
    pub(crate) graph: &'a BuildGraph,
    pub(crate) executor: &'a E,
    pub(crate) outputs: &'a Outputs,
    pub(crate) cancel: &'a Cancel,
}

/// Threads that are started when there is work for them.
pub(crate) struct Pool<'scope, 'env, E: Executor> {
    scope: &'scope Scope<'scope, 'env>,
    shared: &'env Shared<'env, E>,
    queue: &'env JobQueue<E::Inputs>,
    jobs: Sender<Job<E::Inputs>>,
    sender: SyncSender<Message<E::Inputs>>,
    workers: usize,
    busy: usize,
    limit: usize,
}

/// Where workers wait for jobs.
pub(crate) type JobQueue<I> = Mutex<Receiver<Job<I>>>;

/// Makes the two ends of the queue of jobs.
pub(crate) fn job_queue<I>() -> (Sender<Job<I>>, JobQueue<I>) {
    let (sender, receiver) = channel();
    (sender, Mutex::new(receiver))
}

impl<'scope, 'env, E: Executor> Pool<'scope, 'env, E> {
    /// Makes a pool of at most `limit` threads, none yet, and the end where its messages come out.
    ///
    /// The threads end when the pool is dropped.
    pub(crate) fn new(
        scope: &'scope Scope<'scope, 'env>,
        shared: &'env Shared<'env, E>,
        jobs: Sender<Job<E::Inputs>>,
        queue: &'env JobQueue<E::Inputs>,
        limit: usize,
    ) -> (Self, Receiver<Message<E::Inputs>>) {
        let (sender, messages) = sync_channel(MESSAGES_WAITING);
        let pool = Self {
            scope,
            shared,
            queue,
            jobs,
            sender,
            workers: 0,
            busy: 0,
            limit,
        };
        (pool, messages)
    }

    /// Tells whether another job would begin at once.
    pub(crate) fn has_room(&self) -> bool {
        self.busy < self.limit
    }

    /// Returns the number of jobs that have not reported yet.
    pub(crate) fn busy(&self) -> usize {
        self.busy
    }

    /// Notes that a job has reported its end.
    pub(crate) fn note_end(&mut self) {
        self.busy -= 1;
    }

    /// Gives `job` to a worker, after starting one if none is free.
    ///
    /// # Errors
    /// When no worker is there and none can be started. With at least one, the job waits for it.
    pub(crate) fn start(&mut self, job: Job<E::Inputs>) -> io::Result<()> {
        if self.workers == self.busy {
            match self.spawn() {
                Ok(()) => self.workers += 1,
                Err(error) if self.workers == 0 => return Err(error),
                // As many as the machine gives.
                Err(_) => self.limit = self.workers,
            }
        }
        self.busy += 1;
        self.jobs
            .send(job)
            .expect("the queue lives as long as the pool");
        Ok(())
    }

    fn spawn(&self) -> io::Result<()> {
        let (shared, queue, sender) = (self.shared, self.queue, self.sender.clone());
        let name = format!("kiln-worker-{}", self.workers);
        Builder::new()
            .name(name)
            .spawn_scoped(self.scope, move || work(shared, queue, &sender))?;
        Ok(())
    }
}

fn work<E: Executor>(
    shared: &Shared<'_, E>,
    queue: &JobQueue<E::Inputs>,
    sender: &SyncSender<Message<E::Inputs>>,
) {
    loop {
        // The lock is held while waiting: the one that holds it gets the next job.
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        let message = match job {
            Job::Check(node) => {
                let task = task(shared, node, sender);
                let check = || {
                    let described = shared.executor.describe(&task)?;
                    let found = shared.executor.look_up(&task, &described)?;
                    Ok((described, found))
                };
                Message::Checked(node, guarded(&task, check))
            }
            Job::Run(node, described) => {
                let task = task(shared, node, sender);
                Message::Ran(
                    node,
                    guarded(&task, || shared.executor.run(&task, described)),
                )
            }
        };
        // Without a scheduler, which then panicked itself, there is nobody to work for.
        if sender.send(message).is_err() {
            return;
        }
    }
}

fn task<'a, E: Executor>(
    shared: &Shared<'a, E>,
    node: StepId,
    sender: &'a SyncSender<Message<E::Inputs>>,
) -> Task<'a> {
    let deliver = move |report: Report| {
        let is_optional = matches!(report, Report::Progress { .. });
        let message = Message::Report(node, report);
        let sent = match sender.try_send(message) {
            Err(TrySendError::Full(_)) if is_optional => Ok(()),
            Err(TrySendError::Full(message)) => sender.send(message).map_err(drop),
            Err(TrySendError::Disconnected(_)) => Err(()),
            Ok(()) => Ok(()),
        };
        // Without a scheduler nobody listens; the job's own end finds out and stops the worker.
        sent.unwrap_or_default();
    };
    Task {
        node,
        graph: shared.graph,
        outputs: shared.outputs,
        cancel: shared.cancel,
        reporter: Reporter::new(deliver),
    }
}

/// Makes the call, unless the build was cancelled; a panic becomes a failure, so that the scheduler
/// never waits for a worker that is gone.
fn guarded<T>(task: &Task<'_>, call: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    task.check_cancelled()?;
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
        let message = format!("kiln panicked: {}", panic_message(panic.as_ref()));
        Err(Failure::new(FailureKind::Bug, message))
    })
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
