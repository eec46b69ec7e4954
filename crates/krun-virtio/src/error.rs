//! What can go wrong on the host, and (apart from it) what a guest can do wrong.

use std::io;

use crate::queue::RingFault;

/// A failure of the host: of an operation that the embedding program asked for.
///
/// What a guest does wrong is never one of these, see [`GuestFault`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An event descriptor could not be made.
    #[error("creating an event descriptor for the {what} of device `{device}` (is the limit of open files reached?)")]
    Event {
        /// Name of the device.
        device: String,
        /// What it was to signal.
        what: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// The device's tasks and its queues do not match one to one.
    #[error(
        "device `{device}`: queue {queue} is served by {tasks} tasks; exactly one task must serve each of its queues"
    )]
    Tasks {
        /// Name of the device.
        device: String,
        /// The queue in question.
        queue: u16,
        /// How many of the tasks serve it.
        tasks: usize,
    },
    /// A device offers a queue of a size that the split ring cannot have.
    #[error("device `{device}`: queue {queue} may have {size} entries; a power of two from 1 to 32768 is needed")]
    QueueSize {
        /// Name of the device.
        device: String,
        /// The queue in question.
        queue: u16,
        /// Its largest size.
        size: u16,
    },
    /// No task could be put on a thread.
    #[error("starting the worker `{worker}` (is the limit of threads or of open files reached?)")]
    Start {
        /// Name of the thread that was to run it.
        worker: String,
        /// The system's reason.
        source: io::Error,
    },
    /// The thread of a worker is gone and its worker with it.
    #[error("device `{device}`: worker {worker} died earlier and cannot be started again; make the device anew")]
    WorkerLost {
        /// Name of the device.
        device: String,
        /// Which of its workers, counted from 0.
        worker: usize,
    },
    /// A queue that cannot be brought up as it was described.
    #[error("attaching queue {queue} of device `{device}`")]
    Queue {
        /// Name of the device.
        device: String,
        /// The queue in question.
        queue: u16,
        /// What is wrong with it.
        source: RingFault,
    },
    /// A queue that the device does not have.
    #[error("device `{device}` has no queue {queue}")]
    NoSuchQueue {
        /// Name of the device.
        device: String,
        /// The queue that was named.
        queue: u16,
    },
    /// State can only be taken from a device that stands still.
    #[error("saving or restoring device `{device}`: it runs; pause it first")]
    NotPaused {
        /// Name of the device.
        device: String,
    },
    /// The device says that it cannot be saved.
    #[error("saving device `{device}`: worker {worker} holds host state that cannot be saved")]
    NotSavable {
        /// Name of the device.
        device: String,
        /// Which of its workers, counted from 0.
        worker: usize,
    },
    /// State of some other device.
    #[error("restoring device `{device}`: the state describes {got} {what}, the device has {expected}")]
    StateShape {
        /// Name of the device.
        device: String,
        /// What was counted.
        what: &'static str,
        /// How many there are in the state.
        got: usize,
        /// How many the device has.
        expected: usize,
    },
    /// State that no device like this one can have been in.
    #[error("restoring device `{device}`: the state has {what}")]
    StateContent {
        /// Name of the device.
        device: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A worker refused the state that it was given.
    #[error("restoring worker {worker} of device `{device}`")]
    Restore {
        /// Name of the device.
        device: String,
        /// Which of its workers, counted from 0.
        worker: usize,
        /// Its reason.
        source: io::Error,
    },
}

/// A mistake of a guest: of its driver, its kernel, or whoever took them over.
///
/// It is counted and logged at a bounded rate ([`crate::FaultLog`]), it may cost the guest its device
/// (DEVICE_NEEDS_RESET), and it is never an [`Error`] of the host program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GuestFault {
    /// A ring broke. Latched: the queue is silent until it is reset.
    #[error("queue {queue}: {fault}")]
    Ring {
        /// The queue.
        queue: u16,
        /// What was wrong with it.
        fault: RingFault,
    },
    /// A request that its device cannot make sense of.
    #[error("queue {queue}: bad request: {what}")]
    Request {
        /// The queue it came by.
        queue: u16,
        /// What was wrong with it.
        what: &'static str,
    },
    /// A register access that the specification does not allow. It had no effect.
    #[error("register {offset:#x}: {what}")]
    Register {
        /// Offset of the register in the device's window.
        offset: u64,
        /// What was wrong with it.
        what: &'static str,
    },
}
