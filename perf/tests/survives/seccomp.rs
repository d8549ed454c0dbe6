//! A seccomp filter under which there is no io_uring. The only `unsafe` of these tests.

use std::{io, os::unix::process::CommandExt, process::Command};

const SYSTEM_CALL_NUMBER: u32 = 0;

/// The program that this starts gets EPERM from `io_uring_setup`.
pub(crate) fn refuse_io_uring(command: &mut Command) {
    // SAFETY: the closure runs between fork and exec, and does nothing but system calls on data of its own stack.
    unsafe { command.pre_exec(install) };
}

fn install() -> io::Result<()> {
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let is_setup = libc::sock_filter {
        code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
        jt: 0,
        jf: 1,
        k: libc::SYS_io_uring_setup as u32,
    };
    let mut filter = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, SYSTEM_CALL_NUMBER),
        is_setup,
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: a flag for this process alone.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel copies the program and its filter, which live for the call.
    let done =
        unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
