//! The life of a device under any transport.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use virtio_queue::QueueState;

use crate::device::{Session, Task, VirtioDevice};
use crate::error::Error;
use crate::executor::{Executor, Running};
use crate::queue::VirtQueue;

/// How long dropping a device waits for each of its threads, unless it is told otherwise.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes of a thread's name that Linux keeps.
const THREAD_NAME: usize = 15;

/// Where a task is.
enum Place {
    Parked(Task),
    Running(Box<dyn Running>),
    /// Its thread died, and the worker with it.
    Lost,
}

struct Seat {
    thread: String,
    queues: Range<u16>,
    place: Place,
}

impl Seat {
    /// The task, off its thread.
    fn park(&mut self) -> Option<&mut Task> {
        let place = std::mem::replace(&mut self.place, Place::Lost);
        self.place = match place {
            Place::Running(running) => running.stop().map_or(Place::Lost, Place::Parked),
            other => other,
        };
        match &mut self.place {
            Place::Parked(task) => Some(task),
            _ => None,
        }
    }

    /// Puts the task on a thread, if it has something to do there.
    fn run(&mut self, executor: &dyn Executor) -> Result<(), Error> {
        match std::mem::replace(&mut self.place, Place::Lost) {
            Place::Parked(task) if !task.idle() => match executor.start(&self.thread, task) {
                Ok(running) => self.place = Place::Running(running),
                Err(failed) => {
                    self.place = Place::Parked(*failed.task);
                    return Err(Error::Start { worker: self.thread.clone(), source: failed.source });
                }
            },
            other => self.place = other,
        }
        Ok(())
    }
}

/// A device, its tasks and their threads under one roof.
///
/// MMIO, a later PCI and a vhost-user server are this plus a decoder of registers or messages. Queues may be attached
/// and detached, and the device paused, resumed and reset, any number of times: no chain and no kick is lost by it.
///
/// Dropping it stops its threads. One that does not stop in time (a system call that hangs) is let go, see
/// [`Hosted::set_patience`].
pub struct Hosted {
    device: Box<dyn VirtioDevice>,
    name: String,
    executor: Arc<dyn Executor>,
    seats: Vec<Seat>,
    paused: bool,
    patience: Duration,
}

impl Hosted {
    /// Makes the device's tasks; none runs before a queue is attached.
    ///
    /// # Errors
    /// [`Error::QueueSize`] and [`Error::Tasks`] if the device is made wrongly.
    pub fn new(mut device: Box<dyn VirtioDevice>, executor: Arc<dyn Executor>) -> Result<Self, Error> {
        let name = device.name();
        let tasks = device.tasks();
        for (queue, &size) in (0u16..).zip(device.queue_sizes()) {
            let serving = tasks.iter().filter(|task| task.range().contains(&queue)).count();
            if serving != 1 {
                return Err(Error::Tasks { device: name, queue, tasks: serving });
            }
            if !size.is_power_of_two() {
                return Err(Error::QueueSize { device: name, queue, size });
            }
        }
        let several = tasks.len() > 1;
        let seats = tasks.into_iter().enumerate().map(|(i, task)| Seat {
            thread: thread_name(&name, several.then_some(i)),
            queues: task.range(),
            place: Place::Parked(task),
        });
        Ok(Self { seats: seats.collect(), device, name, executor, paused: false, patience: PATIENCE })
    }

    /// The face.
    pub fn device(&self) -> &dyn VirtioDevice {
        &*self.device
    }

    /// The face.
    pub fn device_mut(&mut self) -> &mut dyn VirtioDevice {
        &mut *self.device
    }

    /// What the device is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How long dropping this waits for each of its threads. Default: five seconds.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// Whether it was paused and not resumed.
    pub fn paused(&self) -> bool {
        self.paused
    }

    fn lost(&self, worker: usize) -> Error {
        Error::WorkerLost { device: self.name.clone(), worker }
    }

    fn seat_of(&self, queue: u16) -> Result<usize, Error> {
        let found = self.seats.iter().position(|seat| seat.queues.contains(&queue));
        found.ok_or_else(|| Error::NoSuchQueue { device: self.name.clone(), queue })
    }

    /// Attaches queues: all at DRIVER_OK, or one more of a vhost-user peer. Workers that get none go on undisturbed.
    /// A queue that is there already is replaced.
    ///
    /// # Errors
    /// If a queue has no task, or a worker cannot run. Queues whose worker could be started are served.
    pub fn attach(&mut self, session: &Session, queues: Vec<VirtQueue>) -> Result<(), Error> {
        let mut touched = vec![false; self.seats.len()];
        let mut result = Ok(());
        for queue in queues {
            let at = match self.seat_of(queue.index()) {
                Ok(at) => at,
                Err(error) => {
                    result = Err(error);
                    continue;
                }
            };
            let (Some(seat), Some(touched)) = (self.seats.get_mut(at), touched.get_mut(at)) else { continue };
            match seat.park() {
                Some(task) => {
                    *touched = true;
                    task.attach(session, queue);
                }
                None => result = Err(self.lost(at)),
            }
        }
        for (seat, _) in self.seats.iter_mut().zip(touched).filter(|(_, touched)| *touched && !self.paused) {
            if let Err(error) = seat.run(&*self.executor) {
                result = Err(error);
            }
        }
        result
    }

    /// Takes one queue away and answers where it stood: vhost-user's GET_VRING_BASE, a queue reset. The others go on;
    /// what the worker held of this one was given back. `None` if it was not there.
    ///
    /// # Errors
    /// If there is no such queue, or its worker cannot go on with the others.
    pub fn detach(&mut self, index: u16) -> Result<Option<QueueState>, Error> {
        let at = self.seat_of(index)?;
        let lost = self.lost(at);
        let Some(seat) = self.seats.get_mut(at) else { return Err(lost) };
        let Some(task) = seat.park() else { return Err(lost) };
        let state = task.detach(index).map(|queue| queue.state());
        if !self.paused {
            seat.run(&*self.executor)?;
        }
        Ok(state)
    }

    /// Where an attached queue stands. `None` unless the device is parked (paused, or never started).
    pub fn queue_state(&mut self, index: u16) -> Option<QueueState> {
        let at = self.seat_of(index).ok()?;
        match &mut self.seats.get_mut(at)?.place {
            Place::Parked(task) => task.queue_state(index),
            _ => None,
        }
    }

    /// Stops all workers, in parallel.
    fn park(&mut self) {
        for seat in &self.seats {
            if let Place::Running(running) = &seat.place {
                running.request_stop();
            }
        }
        for seat in &mut self.seats {
            seat.park();
        }
    }

    /// Takes all queues away and has the workers forget the session. Waits for system calls under way: when it is
    /// done, nothing touches the rings any more.
    pub fn reset(&mut self) {
        self.park();
        for seat in &mut self.seats {
            if let Place::Parked(task) = &mut seat.place {
                task.reset();
            }
        }
    }

    /// Stops the workers, every chain given back; queues stay attached, and kicks are kept for later.
    pub fn pause(&mut self) {
        self.paused = true;
        self.park();
    }

    /// Goes on after [`Hosted::pause`].
    ///
    /// # Errors
    /// If a worker cannot be started; the others run.
    pub fn resume(&mut self) -> Result<(), Error> {
        self.paused = false;
        let mut result = Ok(());
        for seat in &mut self.seats {
            if let Err(error) = seat.run(&*self.executor) {
                result = Err(error);
            }
        }
        result
    }

    fn parked(&mut self, worker: usize) -> Result<&mut Task, Error> {
        let (lost, not_paused) = (self.lost(worker), Error::NotPaused { device: self.name.clone() });
        match self.seats.get_mut(worker).map(|seat| &mut seat.place) {
            Some(Place::Parked(task)) => Ok(task),
            Some(Place::Running(_)) => Err(not_paused),
            Some(Place::Lost) | None => Err(lost),
        }
    }

    /// The workers' state, one after the other.
    ///
    /// # Errors
    /// If the device runs, or a worker cannot be saved.
    pub fn save(&mut self) -> Result<Vec<Vec<u8>>, Error> {
        let mut states = Vec::with_capacity(self.seats.len());
        for worker in 0..self.seats.len() {
            let state = self.parked(worker)?.save();
            states.push(state.ok_or_else(|| Error::NotSavable { device: self.name.clone(), worker })?);
        }
        Ok(states)
    }

    /// Gives each worker its state.
    ///
    /// # Errors
    /// If the device runs, or the state is not one of this device.
    pub fn restore(&mut self, states: &[Vec<u8>]) -> Result<(), Error> {
        let (got, expected) = (states.len(), self.seats.len());
        if got != expected {
            return Err(Error::StateShape { device: self.name.clone(), what: "workers", got, expected });
        }
        for (worker, state) in states.iter().enumerate() {
            let restored = self.parked(worker)?.restore(state);
            restored.map_err(|source| Error::Restore { device: self.name.clone(), worker, source })?;
        }
        Ok(())
    }
}

impl Drop for Hosted {
    fn drop(&mut self) {
        for seat in &self.seats {
            if let Place::Running(running) = &seat.place {
                running.request_stop();
            }
        }
        for seat in &mut self.seats {
            if let Place::Running(running) = std::mem::replace(&mut seat.place, Place::Lost) {
                running.shutdown(self.patience);
            }
        }
    }
}

impl fmt::Debug for Hosted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let running = self.seats.iter().filter(|seat| matches!(seat.place, Place::Running(_))).count();
        f.debug_struct("Hosted")
            .field("name", &self.name)
            .field("workers", &self.seats.len())
            .field("running", &running)
            .field("paused", &self.paused)
            .finish_non_exhaustive()
    }
}

/// `name`, cut so that the worker's number still fits.
fn thread_name(name: &str, worker: Option<usize>) -> String {
    let suffix = worker.map(|worker| format!("-{worker}")).unwrap_or_default();
    let room = THREAD_NAME.saturating_sub(suffix.len());
    let mut cut: String = name.chars().filter(|c| *c != '\0').collect();
    while cut.len() > room {
        cut.pop();
    }
    cut + &suffix
}

#[cfg(test)]
mod tests {
    use super::thread_name;

    #[test]
    fn thread_names_fit_and_differ() {
        assert_eq!(thread_name("console", None), "console");
        assert_eq!(thread_name("virtio-fs-with-a-long-tag", Some(12)), "virtio-fs-wi-12");
        assert_eq!(thread_name("täg-täg-täg-täg", Some(3)), "täg-täg-tä-3");
    }
}
