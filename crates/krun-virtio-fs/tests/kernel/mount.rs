//! The `/dev/fuse` transport: requests are read from the device, replies are written to it.

use std::ffi::CString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use krun_virtio::VecSink;
use krun_virtio_fs::abi::OutHeader;
use krun_virtio_fs::{FileSystem, FuseServer, Handled, MAX_WRITE, PassthroughFs};
use rustix::mount::{MountFlags, UnmountFlags};

/// Threads that take requests.
const THREADS: usize = 3;

/// A file system that is mounted for a test, and unmounted with it.
pub(crate) struct Mounted<F: FileSystem + 'static = PassthroughFs> {
    dir: tempfile::TempDir,
    server: Arc<FuseServer<F>>,
    threads: Vec<JoinHandle<()>>,
}

impl<F: FileSystem + 'static> Mounted<F> {
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn server(&self) -> &Arc<FuseServer<F>> {
        &self.server
    }
}

impl<F: FileSystem + 'static> Drop for Mounted<F> {
    fn drop(&mut self) {
        let gone = rustix::mount::unmount(self.dir.path(), UnmountFlags::empty())
            .or_else(|_| rustix::mount::unmount(self.dir.path(), UnmountFlags::DETACH));
        assert!(gone.is_ok(), "unmount: {gone:?}");
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        // Linux sends DESTROY to block devices and virtio only; whose transport has ended may forget everything.
        self.server.reset();
    }
}

/// Mounts a file system, or says what is missing.
pub(crate) fn mount<F: FileSystem + 'static>(fs: F) -> Option<Mounted<F>> {
    let device = File::options().read(true).write(true).open("/dev/fuse");
    let (Ok(device), true) = (device, rustix::process::geteuid().is_root()) else {
        eprintln!("SKIPPED: mounting a file system needs root and /dev/fuse");
        return None;
    };
    let dir = tempfile::tempdir().expect("a directory");
    let options =
        format!("fd={},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other", device.as_raw_fd());
    let options = CString::new(options).expect("no NUL");
    if let Err(errno) = rustix::mount::mount("krun", dir.path(), "fuse", MountFlags::empty(), Some(&*options)) {
        eprintln!("SKIPPED: cannot mount FUSE here: {errno}");
        return None;
    }
    let server = Arc::new(FuseServer::new(Arc::new(fs)));
    let device = Arc::new(device);
    let threads = (0..THREADS)
        .map(|_| {
            let (device, server) = (device.clone(), server.clone());
            Builder::new().name("fuse".into()).spawn(move || serve(&device, &server)).expect("a thread")
        })
        .collect();
    Some(Mounted { dir, server, threads })
}

fn serve<F: FileSystem + 'static>(device: &Arc<File>, server: &Arc<FuseServer<F>>) {
    let mut request = vec![0; MAX_WRITE as usize + 4096];
    loop {
        match (&**device).read(&mut request) {
            Ok(length) => answer(device, server, &request[..length]),
            Err(error) => match error.raw_os_error() {
                // Interrupted before it was read, or by a signal.
                Some(libc::ENOENT | libc::EINTR | libc::EAGAIN) => {}
                // Unmounted.
                Some(libc::ENODEV) => return,
                _ => panic!("/dev/fuse: {error}"),
            },
        }
    }
}

/// As a virtio queue's thread does: first without blocking, then elsewhere.
fn answer<F: FileSystem + 'static>(device: &Arc<File>, server: &Arc<FuseServer<F>>, request: &[u8]) {
    let mut reply = VecSink::new(MAX_WRITE as usize + 4096);
    let mut handled = server.handle(&mut &*request, &mut reply, false);
    if handled == Handled::Again {
        handled = server.handle(&mut &*request, &mut reply, true);
    }
    if handled == Handled::Wait {
        let (device, server, request) = (device.clone(), server.clone(), request.to_vec());
        let waiter = Builder::new().name("waiter".into()).spawn(move || {
            let mut reply = VecSink::new(OutHeader::SIZE);
            while server.handle(&mut &*request, &mut reply, true) == Handled::Wait {
                std::thread::sleep(Duration::from_millis(5));
            }
            send(&device, reply.as_slice());
        });
        waiter.expect("a thread");
        return;
    }
    send(device, reply.as_slice());
}

fn send(device: &File, reply: &[u8]) {
    if !reply.is_empty()
        && let Err(error) = (&*device).write(reply)
    {
        // The caller was killed meanwhile, or the mount is gone.
        assert!(matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)), "reply: {error}");
    }
}
