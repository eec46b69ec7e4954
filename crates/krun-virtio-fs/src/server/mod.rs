//! The FUSE protocol: takes a request's bytes, calls the file system, writes the reply's bytes.

mod args;
mod attributes;
mod data;
mod directory;
mod locks;
mod names;
mod reply;
mod session;

use std::sync::Arc;

use krun_virtio::{Sink, Source};

use crate::abi::{BatchForgetIn, ForgetIn, ForgetOne, InHeader, InterruptIn, Opcode};
use crate::errno::{Errno, Failure, FsResult};
use crate::filesystem::FileSystem;
use crate::types::{NodeId, Request};
use args::Args;
use reply::Reply;
pub use session::MAX_WRITE;
use session::Session;

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Handled {
    /// It is done. The sink holds the reply, or nothing if there is none to give.
    Replied,
    /// It would block: run it once more, from its first byte, where it may.
    Again,
    /// It waits for a lock: run it once more, from its first byte, after a while. Meanwhile it needs no thread.
    Wait,
}

/// A FUSE server over any transport: virtio rings, `/dev/fuse`, plain byte slices.
///
/// All methods may be called from several threads at once. A request never panics, whatever its bytes; it has a reply
/// unless its header is cut off, there is no room for a reply's header, or its operation has none (FORGET, INTERRUPT).
#[derive(Debug)]
pub struct FuseServer<F: ?Sized> {
    session: Session,
    fs: Arc<F>,
}

/// One request on its way through the dispatcher.
struct Job<'a> {
    node: NodeId,
    rq: Request,
    args: Args<'a>,
    reply: Reply<'a>,
}

impl<F: FileSystem + ?Sized> FuseServer<F> {
    /// A server for this file system. Sessions begin with INIT.
    #[must_use]
    pub fn new(fs: Arc<F>) -> Self {
        Self { session: Session::default(), fs }
    }

    /// The file system.
    #[must_use]
    pub fn file_system(&self) -> &Arc<F> {
        &self.fs
    }

    /// Ends the session as DESTROY does: the client is gone or was reset. Nodes and handles go; host resources stay.
    pub fn reset(&self) {
        self.session.end();
        self.fs.destroy();
    }

    /// Handles one request.
    ///
    /// `reply` must be empty. With `may_block` false, an operation that could wait for a disk answers
    /// [`Handled::Again`] before it has any effect, and the reply is left empty.
    pub fn handle(&self, request: &mut dyn Source, reply: &mut dyn Sink, may_block: bool) -> Handled {
        let mut head = [0; InHeader::SIZE];
        if request.read(&mut head).is_err() {
            return Handled::Replied;
        }
        let header = InHeader::decode(&head);
        let length = usize::try_from(header.len).unwrap_or(usize::MAX).checked_sub(InHeader::SIZE);
        let opcode = Opcode::new(header.opcode);
        let args = length.filter(|l| *l <= request.remaining()).map(|l| Args::new(request, l));
        if let Some(op @ (Opcode::Forget | Opcode::BatchForget | Opcode::Interrupt | Opcode::NotifyReply)) = opcode {
            // They have no reply, thus no place for an error either.
            if let Some(args) = args {
                let _ = self.notice(op, &header, args);
            }
            return Handled::Replied;
        }
        let Some(reply) = Reply::begin(reply, header.unique) else { return Handled::Replied };
        let (Some(mut args), Some(opcode)) = (args, opcode) else {
            reply.fail(if opcode.is_none() { Errno::NOSYS } else { Errno::INVAL });
            return Handled::Replied;
        };
        // Extensions are at the end; none is negotiated, so none is looked at.
        let Some(left) = args.left().checked_sub(8 * usize::from(header.total_extlen)) else {
            reply.fail(Errno::INVAL);
            return Handled::Replied;
        };
        args.cut(left);
        let rq = Request { uid: header.uid, gid: header.gid, pid: header.pid, may_block };
        let mut job = Job { node: NodeId(header.nodeid), rq, args, reply };
        match self.dispatch(opcode, &mut job) {
            Ok(()) => job.reply.finish(),
            Err(Failure::Errno(errno)) => job.reply.fail(errno),
            Err(Failure::Again) if may_block => job.reply.fail(Errno::AGAIN),
            Err(Failure::Again) => {
                job.reply.withdraw();
                return Handled::Again;
            }
            Err(Failure::Wait) if self.session.take_interrupted(header.unique) => job.reply.fail(Errno::INTR),
            Err(Failure::Wait) => {
                job.reply.withdraw();
                return Handled::Wait;
            }
        }
        Handled::Replied
    }

    /// Answers a request that [`Handled::Wait`] left waiting, because nobody can wait any longer.
    pub fn cancel(&self, request: &mut dyn Source, reply: &mut dyn Sink) {
        let mut head = [0; InHeader::SIZE];
        if request.read(&mut head).is_err() {
            return;
        }
        if let Some(reply) = Reply::begin(reply, InHeader::decode(&head).unique) {
            reply.fail(Errno::INTR);
        }
    }

    /// Requests without a reply.
    fn notice(&self, opcode: Opcode, header: &InHeader, mut args: Args<'_>) -> FsResult<()> {
        match opcode {
            Opcode::Forget => {
                let forget = ForgetIn::decode(&args.take()?);
                self.forget(header.nodeid, forget.nlookup);
            }
            Opcode::BatchForget => {
                // `count` is only a promise: the loop is bounded by what is there.
                let batch = BatchForgetIn::decode(&args.take()?);
                for _ in 0..batch.count {
                    let one = ForgetOne::decode(&args.take()?);
                    self.forget(one.nodeid, one.nlookup);
                }
            }
            Opcode::Interrupt => self.session.interrupt(InterruptIn::decode(&args.take()?).unique),
            _ => {}
        }
        Ok(())
    }

    fn forget(&self, node: u64, count: u64) {
        if node != NodeId::ROOT.0 && count != 0 && self.session.is_live() {
            self.fs.forget(NodeId(node), count);
        }
    }

    fn dispatch(&self, opcode: Opcode, job: &mut Job<'_>) -> FsResult<()> {
        if opcode != Opcode::Init && !self.session.is_live() {
            return Err(Errno::IO.into());
        }
        match opcode {
            Opcode::Init => self.init(job),
            Opcode::Destroy => {
                self.reset();
                Ok(())
            }
            Opcode::Lookup => self.lookup(job),
            Opcode::Symlink => self.symlink(job),
            Opcode::Mknod => self.mknod(job),
            Opcode::Mkdir => self.mkdir(job),
            Opcode::Unlink => self.unlink(job),
            Opcode::Rmdir => self.rmdir(job),
            Opcode::Rename => self.rename(job),
            Opcode::Rename2 => self.rename2(job),
            Opcode::Link => self.link(job),
            Opcode::Getattr => self.getattr(job),
            Opcode::Setattr => self.setattr(job),
            Opcode::Statx => self.statx(job),
            Opcode::Readlink => self.readlink(job),
            Opcode::Access => self.access(job),
            Opcode::Statfs => self.statfs(job),
            Opcode::Setxattr => self.setxattr(job),
            Opcode::Getxattr => self.getxattr(job),
            Opcode::Listxattr => self.listxattr(job),
            Opcode::Removexattr => self.removexattr(job),
            Opcode::Open => self.open(job),
            Opcode::Create => self.create(job),
            Opcode::Tmpfile => self.tmpfile(job),
            Opcode::Read => self.read(job),
            Opcode::Write => self.write(job),
            Opcode::Flush => self.flush(job),
            Opcode::Release => self.release(job),
            Opcode::Fsync => self.fsync(job),
            Opcode::Lseek => self.lseek(job),
            Opcode::Fallocate => self.fallocate(job),
            Opcode::CopyFileRange => self.copy_file_range(job),
            Opcode::Syncfs => self.fs.syncfs(&job.rq, job.node),
            Opcode::Opendir => self.opendir(job),
            Opcode::Readdir => self.readdir(job),
            Opcode::Readdirplus => self.readdirplus(job),
            Opcode::Releasedir => self.releasedir(job),
            Opcode::Fsyncdir => self.fsyncdir(job),
            Opcode::Getlk => self.getlk(job),
            Opcode::Setlk => self.setlk(job, false),
            Opcode::Setlkw => self.setlk(job, true),
            // No command of any file system is known here; overlayfs and others insist on this very error.
            Opcode::Ioctl => Err(Errno::NOTTY.into()),
            Opcode::Forget
            | Opcode::BatchForget
            | Opcode::Interrupt
            | Opcode::NotifyReply
            | Opcode::Bmap
            | Opcode::Poll
            | Opcode::Setupmapping
            | Opcode::Removemapping => Err(Errno::NOSYS.into()),
        }
    }
}
