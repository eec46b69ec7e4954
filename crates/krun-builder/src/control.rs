//! The conversation with the guest's init, over a socket whose other end is a console port.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use krun_init::protocol::{Resize, Scope};
use krun_init::{Event, GuestFault, Host};
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType};

/// Most reads in one go: a guest that never stops talking must not keep its listener from everything else.
const READS: usize = 32;

/// Our end.
#[derive(Debug)]
pub(crate) struct Control {
    host: Host,
    /// `None` once the guest's end is closed.
    socket: Option<OwnedFd>,
    /// Whom signals are for: the whole foreground of a terminal, or the command alone.
    scope: Scope,
}

impl Control {
    /// The conversation, and the console port's end of the socket.
    pub(crate) fn new(host: Host, scope: Scope) -> io::Result<(Self, OwnedFd)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        Ok((Self { host, socket: Some(ours), scope }, theirs))
    }

    /// A switch for the moment when the guest's end is closed: what has been said is heard, nothing that comes later.
    /// Whoever opens the channel after init is not init.
    pub(crate) fn closer(&self) -> io::Result<Closer> {
        let socket = self.socket.as_ref().ok_or(io::ErrorKind::NotConnected)?.try_clone()?;
        Ok(Closer(Arc::new(socket)))
    }

    /// Our end of the socket.
    pub(crate) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd)
    }

    /// What to poll, and for what.
    pub(crate) fn interest(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let wanted = if self.host.outgoing().is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
        self.socket.as_ref().map(|socket| (socket.as_fd(), wanted))
    }

    /// Sends and receives what can be without waiting, up to a limit; hands each event to `told`. Whether there may be
    /// more.
    ///
    /// # Errors
    ///
    /// The guest spoke nonsense, and is not listened to any more.
    pub(crate) fn pump(&mut self, mut told: impl FnMut(Event)) -> Result<bool, GuestFault> {
        let mut buffer = [0; 4096];
        for _ in 0..READS {
            self.send();
            let Some(socket) = &self.socket else { return Ok(false) };
            match rustix::net::recv(socket, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((0, _)) => self.close().into_iter().for_each(&mut told),
                Ok((count, _)) => {
                    if let Err(fault) = self.receive(buffer.get(..count).unwrap_or_default(), &mut told) {
                        self.hang_up();
                        return Err(fault);
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(false),
                Err(error) => {
                    tracing::warn!(%error, "cannot read the guest's control channel");
                    self.close();
                }
            }
        }
        Ok(true)
    }

    /// Whether the guest has said all that it is listened to for.
    pub(crate) fn is_over(&self) -> bool {
        self.host.is_over()
    }

    /// Ends the conversation from this side: what the guest still sends fails at once, instead of waiting for somebody
    /// to read it. Closing our descriptor is not enough, as the console's listener has a duplicate.
    pub(crate) fn hang_up(&mut self) {
        if let Some(socket) = &self.socket
            && let Err(error) = rustix::net::shutdown(socket, Shutdown::Both)
        {
            tracing::warn!(%error, "cannot hang up on the guest's control channel");
        }
        self.close();
    }

    fn receive(&mut self, mut bytes: &[u8], told: &mut impl FnMut(Event)) -> Result<(), GuestFault> {
        if self.host.is_over() {
            // Whatever a guest still says after its last word is not listened to.
            return Ok(());
        }
        while !bytes.is_empty() && !self.host.is_over() {
            if let Some(event) = self.host.receive(&mut bytes)? {
                told(event);
            }
        }
        Ok(())
    }

    fn send(&mut self) {
        let Some(socket) = &self.socket else { return };
        while !self.host.outgoing().is_empty() {
            match rustix::net::send(socket, self.host.outgoing(), SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(count) => self.host.sent(count),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(error) => {
                    tracing::warn!(%error, "cannot write to the guest's control channel");
                    self.close();
                    return;
                }
            }
        }
    }

    /// A signal for the command. One that cannot be passed on is logged: the caller has gone on long since.
    pub(crate) fn signal(&mut self, number: u8) {
        if let Err(error) = self.host.signal(number, self.scope) {
            tracing::warn!(%error, number, "cannot pass a signal on to the guest's command");
        }
    }

    /// A new size of the terminal.
    pub(crate) fn resize(&mut self, columns: u16, rows: u16) {
        if let Err(error) = self.host.resize(Resize { columns, rows }) {
            tracing::debug!(%error, "cannot tell the guest's command the size of its terminal");
        }
    }

    /// The guest's end is closed, or is as good as closed. What that tells, if anything.
    fn close(&mut self) -> Option<Event> {
        self.socket = None;
        self.host.close()
    }
}

/// What [`Control::closer`] makes. Clones share a descriptor.
#[derive(Debug, Clone)]
pub(crate) struct Closer(Arc<OwnedFd>);

impl Closer {
    pub(crate) fn close(&self) {
        if let Err(error) = rustix::net::shutdown(&self.0, Shutdown::Read) {
            tracing::warn!(%error, "cannot close the guest's control channel");
        }
    }

    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use krun_init::Start;
    use krun_init::protocol::{Hello, Started, ToHost};

    fn encode(frame: ToHost<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        bytes
    }

    fn pair() -> (Control, std::os::unix::net::UnixStream) {
        let host = Host::new(&Start::new(["/bin/true"])).unwrap();
        let (control, theirs) = Control::new(host, Scope::Process).unwrap();
        (control, theirs.into())
    }

    fn events(control: &mut Control) -> Result<Vec<Event>, GuestFault> {
        let mut events = Vec::new();
        control.pump(|event| events.push(event)).map(|_| events)
    }

    #[test]
    fn a_whole_conversation() {
        use std::io::{Read as _, Write as _};
        let (mut control, mut guest) = pair();
        assert_eq!(events(&mut control), Ok(vec![]));
        guest.write_all(&encode(ToHost::Hello(Hello { features: 0 }))).unwrap();
        assert_eq!(events(&mut control), Ok(vec![Event::Greeted { features: 0 }]));
        let mut start = [0; 4096];
        assert!(guest.read(&mut start).unwrap() > 12);
        let mut rest = encode(ToHost::Started(Started { pid: 7 }));
        rest.extend(encode(ToHost::Exited(krun_init::protocol::Exit::Code(3))));
        // Byte by byte, as slow as a channel can be.
        let mut seen = Vec::new();
        for byte in rest {
            guest.write_all(&[byte]).unwrap();
            seen.extend(events(&mut control).unwrap());
        }
        assert_eq!(seen, [Event::Started { pid: 7 }, Event::Exited(krun_init::protocol::Exit::Code(3))]);
        guest.write_all(b"one more thing").unwrap();
        assert_eq!(events(&mut control), Ok(vec![]));
    }

    #[test]
    fn an_init_is_told_of_by_the_end_of_the_channel() {
        use std::io::Write as _;
        let mut start = Start::new(["/sbin/init"]);
        start.becomes_init = true;
        let (mut control, theirs) = Control::new(Host::new(&start).unwrap(), Scope::Process).unwrap();
        let closer = control.closer().unwrap();
        let mut guest = std::os::unix::net::UnixStream::from(theirs);
        guest.write_all(&encode(ToHost::Hello(Hello { features: 0 }))).unwrap();
        guest.write_all(&encode(ToHost::HandingOver)).unwrap();
        assert_eq!(events(&mut control), Ok(vec![Event::Greeted { features: 0 }]));
        closer.close();
        assert_eq!(events(&mut control), Ok(vec![Event::HandedOver]));
        assert!(control.interest().is_none());
        assert_eq!(events(&mut control), Ok(vec![]));
    }

    #[test]
    fn nonsense_ends_it() {
        use std::io::Write as _;
        let (mut control, mut guest) = pair();
        let _closer = control.closer().unwrap();
        guest.write_all(&[0xff; 64]).unwrap();
        assert!(events(&mut control).is_err());
        assert!(control.interest().is_none());
        // Nobody reads on, and nobody waits for it.
        assert_eq!(guest.write_all(&[0; 1 << 20]).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_guest_that_never_stops_talking_is_interrupted() {
        use std::io::Write as _;
        let (mut control, mut guest) = pair();
        guest.write_all(&encode(ToHost::Hello(Hello { features: 0 }))).unwrap();
        guest.write_all(&encode(ToHost::Started(Started { pid: 7 }))).unwrap();
        guest.write_all(&encode(ToHost::Exited(krun_init::protocol::Exit::Code(3)))).unwrap();
        // As much as the socket takes, which is more than one go.
        while guest.write(&[0; 16 << 10]).is_ok() {}
        assert_eq!(control.pump(|_| {}), Ok(true));
        assert!(control.is_over());
        assert_eq!(control.pump(|_| {}), Ok(false));
    }

    #[test]
    fn what_comes_after_the_close_is_not_heard() {
        use std::io::Write as _;
        let (mut control, mut guest) = pair();
        let closer = control.closer().unwrap();
        guest.write_all(&encode(ToHost::Hello(Hello { features: 0 }))).unwrap();
        closer.close();
        assert!(guest.write_all(&encode(ToHost::Started(Started { pid: 1 }))).is_err());
        assert_eq!(events(&mut control), Ok(vec![Event::Greeted { features: 0 }]));
        assert!(control.interest().is_none());
    }

    #[test]
    fn a_closed_channel_is_not_polled() {
        let (mut control, guest) = pair();
        drop(guest);
        assert_eq!(events(&mut control), Ok(vec![]));
        assert!(control.interest().is_none());
    }
}
