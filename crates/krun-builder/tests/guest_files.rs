//! Directories that host and guest share.

#![expect(clippy::unwrap_used, reason = "a test")]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

use common::*;
use krun_builder::Volume;

mod every_make {
    use super::*;

    #[test]
    #[ignore = "needs a KVM that runs real code: cargo xtask test"]
    fn each_side_sees_what_the_other_does() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("from-host"), "hello guest").unwrap();
        fs::write(at("old"), "old").unwrap();
        let script = "set -e; cd /data
            cat from-host; echo hello host > from-guest; chmod 640 from-guest; mkdir -p a/b; ln -s ../from-host a/link
            ln from-guest a/b/hard; mv old new; truncate -s 12345 sparse; echo more >> new; rm from-host; touch -d @1000000000 new
            echo; echo ready; until [ -e go ]; do sleep 0.1; done; cat go";
        let running = start(guest().volume(Volume::new(dir.path(), "/data")), sh(script));
        running.wait_for("ready");
        fs::write(at("going"), "the host answers").unwrap();
        fs::rename(at("going"), at("go")).unwrap();
        assert_eq!(running.wait().success(), "hello guest\nready\nthe host answers");

        assert_eq!(fs::read_to_string(at("from-guest")).unwrap(), "hello host\n");
        let meta = fs::metadata(at("from-guest")).unwrap();
        assert_eq!((meta.permissions().mode() & 0o7777, meta.nlink()), (0o640, 2));
        assert_eq!(fs::metadata(at("a/b/hard")).unwrap().ino(), meta.ino());
        assert_eq!(fs::read_link(at("a/link")).unwrap().to_str(), Some("../from-host"));
        assert_eq!(fs::read_to_string(at("new")).unwrap(), "oldmore\n");
        assert_eq!(fs::metadata(at("new")).unwrap().mtime(), 1_000_000_000);
        assert_eq!(fs::metadata(at("sparse")).unwrap().len(), 12345);
        assert!(!at("from-host").exists() && !at("old").exists());
    }
}

#[test]
#[ignore = "needs a KVM that runs real code: cargo xtask test"]
fn five_thousand_files_copied_hashed_removed() {
    let dir = tempfile::tempdir().unwrap();
    for top in 0..50 {
        let sub = dir.path().join(format!("tree/{top}"));
        fs::create_dir_all(&sub).unwrap();
        for file in 0..100 {
            fs::write(sub.join(format!("{file}")), format!("{top} {file}\n").repeat(file + 1)).unwrap();
        }
    }
    // The guest copies, hashes what it has copied, and removes what it has copied from; the host looks at the copy.
    let script = "set -e; cd /data; cp -r tree copy
        cd copy; find . -type f | wc -l; find . -type f | sort | xargs cat | md5sum
        rm -r ../tree; ls ..";
    let outcome = run(guest().volume(Volume::new(dir.path(), "/data").exclusive()), sh(script));
    let text = outcome.success();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines[0], lines[2], lines.len()), ("5000", "copy", 3), "{text}");
    let mut copied = Vec::new();
    for top in 0..50 {
        for file in 0..100 {
            let name = format!("./{top}/{file}");
            copied.push((name.clone(), fs::read(dir.path().join("copy").join(&name)).unwrap()));
            let expected = format!("{top} {file}\n").repeat(file + 1);
            assert!(copied.last().unwrap().1 == expected.as_bytes(), "{name}");
        }
    }
    copied.sort();
    assert_eq!(lines[1], md5sum(&copied.into_iter().flat_map(|(_, bytes)| bytes).collect::<Vec<u8>>()));
    assert!(!dir.path().join("tree").exists());
}

/// What busybox on this side says.
fn md5sum(bytes: &[u8]) -> String {
    use std::io::Write as _;
    use std::process::{Command, Stdio};
    let mut child = Command::new(asset("KRUN_TEST_BUSYBOX"))
        .arg("md5sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap().trim_end().to_owned()
}

#[test]
#[ignore = "needs a KVM that runs real code: cargo xtask test"]
fn a_read_only_volume_refuses_writes_and_a_root_takes_them() {
    let (root, volume) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let test_root = asset("KRUN_TEST_ROOT");
    fs::create_dir(root.path().join("bin")).unwrap();
    fs::copy(test_root.join("bin/busybox"), root.path().join("bin/busybox")).unwrap();
    fs::write(volume.path().join("file"), "untouched").unwrap();
    // Remounting is root's right in the guest; the host still refuses.
    let script = "B=/bin/busybox; cd /read/only
        for try in '> file' '> new' '$B rm file' '$B mv file other' '$B mkdir d' '$B chmod 777 file' '$B ln -s a b'; do
            eval \"$try\" 2>/dev/null && echo did: \"$try\"
        done
        $B mount -o remount,rw /read/only && { echo evil > file; } 2>/dev/null && echo wrote after remount
        $B cat file; echo made > /in-root";
    let command = krun_builder::Command::new("/bin/busybox").args(["sh", "-c", script]);
    let builder = bare().root(root.path()).volume(Volume::new(volume.path(), "/read/only").read_only());
    assert_eq!(run(builder, command).success(), "untouched");
    assert_eq!(fs::read_to_string(volume.path().join("file")).unwrap(), "untouched");
    assert_eq!(fs::read_dir(volume.path()).unwrap().count(), 1);
    assert_eq!(fs::read_to_string(root.path().join("in-root")).unwrap(), "made\n");
    // Nothing of what the guest needed to run is left behind: no mount point, no init.
    let mut left: Vec<String> =
        fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    left.sort();
    assert_eq!(left, ["bin", "in-root"]);
}

#[test]
#[ignore = "needs a KVM that runs real code: cargo xtask test"]
fn a_symlink_to_a_host_file_outside_leaks_nothing() {
    let (outside, shared) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let secret = outside.path().join("secret");
    fs::write(&secret, "the host's secret").unwrap();
    symlink(&secret, shared.path().join("absolute")).unwrap();
    let up = "../".repeat(20);
    symlink(format!("{up}{}", secret.display()), shared.path().join("relative")).unwrap();
    symlink(outside.path(), shared.path().join("directory")).unwrap();
    let script =
        "cd /data; cat absolute relative directory/secret; echo overwritten > absolute; echo x > directory/new; ls -l";
    let outcome = run(guest().volume(Volume::new(shared.path(), "/data")), sh(script));
    assert!(outcome.status.success() && !outcome.out().contains("the host's secret"), "{outcome:?}");
    // A link is shown as what it is, and followed in the guest, where there is no such file.
    assert!(outcome.out().contains(&format!("absolute -> {}", secret.display())), "{outcome:?}");
    assert_eq!(fs::read_to_string(&secret).unwrap(), "the host's secret");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
}

#[test]
#[ignore = "needs a KVM that runs real code: cargo xtask test"]
fn twenty_four_volumes_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut builder = guest();
    for index in 0..24 {
        let source = dir.path().join(format!("{index}"));
        fs::create_dir(&source).unwrap();
        fs::write(source.join("number"), format!("{index}\n")).unwrap();
        builder = builder.volume(Volume::new(source, format!("/volumes/{index}")));
    }
    let script =
        "i=0; while [ $i -lt 24 ]; do cat /volumes/$i/number; echo seen $i > /volumes/$i/seen; i=$((i + 1)); done";
    let expected: String = (0..24).map(|index| format!("{index}\n")).collect();
    assert_eq!(run(builder, sh(script)).success(), expected);
    for index in 0..24 {
        assert_eq!(fs::read_to_string(dir.path().join(format!("{index}/seen"))).unwrap(), format!("seen {index}\n"));
    }
}

#[test]
#[ignore = "needs a KVM that runs real code: cargo xtask test"]
fn more_volumes_than_the_command_line_names_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let volumes = |count: usize| {
        let volume = |index| Volume::new(dir.path(), format!("/volumes/{index}"));
        (0..count).map(volume).fold(guest().command(sh("true")), krun_builder::VmBuilder::volume)
    };
    let vm = volumes(45).build().unwrap();
    assert_eq!(vm.kernel_cmdline().matches("virtio_mmio.device=").count(), 47);
    let error = volumes(70).build().unwrap_err();
    let [problem] = error.problems() else { panic!("{error}") };
    assert_eq!((problem.field, problem.value.as_str()), ("kernel_cmdline", "with 72 virtio devices"));
    assert!(problem.remedy.contains("fewer volumes"), "{problem}");
}
