//! liblxc, opened while running.
//!
//! Only what does not fork may be called in the daemon: it goes over the container's command socket. Starting and
//! attaching fork, and belong into a process with one thread (`incusd fork…`).

mod attach;
mod terminal;

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::path::Path;
use std::ptr::{null, null_mut};
use std::sync::OnceLock;

use libloading::{Library, Symbol};

pub use attach::{Attach, Attached, Refused};
pub use terminal::terminal;

/// The name that every distribution gives the library of the 4.x to 6.x series.
const SONAME: &str = "liblxc.so.1";

type C = *mut Raw;
type Unused = Option<unsafe extern "C" fn()>;

/// `struct lxc_container` of liblxc 5.0 (lxc/lxccontainer.h): later versions only add at the end.
#[repr(C)]
struct Raw {
    name: *mut c_char,
    configfile: *mut c_char,
    pidfile: *mut c_char,
    slock: *mut c_void,
    privlock: *mut c_void,
    numthreads: c_int,
    lxc_conf: *mut c_void,
    error_string: *mut c_char,
    error_num: c_int,
    daemonize: bool,
    config_path: *mut c_char,
    is_defined: Unused,
    state: Option<unsafe extern "C" fn(C) -> *const c_char>,
    is_running: Unused,
    freeze: Option<unsafe extern "C" fn(C) -> bool>,
    unfreeze: Option<unsafe extern "C" fn(C) -> bool>,
    init_pid: Option<unsafe extern "C" fn(C) -> libc::pid_t>,
    load_config: Option<unsafe extern "C" fn(C, *const c_char) -> bool>,
    start: Option<unsafe extern "C" fn(C, c_int, *const *const c_char) -> bool>,
    startl: Unused,
    stop: Option<unsafe extern "C" fn(C) -> bool>,
    want_daemonize: Option<unsafe extern "C" fn(C, bool) -> bool>,
    want_close_all_fds: Option<unsafe extern "C" fn(C, bool) -> bool>,
    config_file_name: Unused,
    wait: Option<unsafe extern "C" fn(C, *const c_char, c_int) -> bool>,
    set_config_item: Option<unsafe extern "C" fn(C, *const c_char, *const c_char) -> bool>,
    destroy: Unused,
    save_config: Unused,
    create: Unused,
    createl: Unused,
    rename: Unused,
    reboot: Unused,
    shutdown: Option<unsafe extern "C" fn(C, c_int) -> bool>,
    clear_config: Unused,
    clear_config_item: Unused,
    get_config_item: Unused,
    get_running_config_item: Unused,
    get_keys: Unused,
    get_interfaces: Unused,
    get_ips: Unused,
    get_cgroup_item: Option<unsafe extern "C" fn(C, *const c_char, *mut c_char, c_int) -> c_int>,
    set_cgroup_item: Option<unsafe extern "C" fn(C, *const c_char, *const c_char) -> bool>,
    get_config_path: Unused,
    set_config_path: Option<unsafe extern "C" fn(C, *const c_char) -> bool>,
    clone: Unused,
    console_getfd: Option<unsafe extern "C" fn(C, *mut c_int, *mut c_int) -> c_int>,
    console: Unused,
    attach: Option<unsafe extern "C" fn(C, AttachRun, *mut c_void, *mut attach::Options, *mut libc::pid_t) -> c_int>,
    attach_run_wait: Unused,
    attach_run_waitl: Unused,
    snapshot: Unused,
    snapshot_list: Unused,
    snapshot_restore: Unused,
    snapshot_destroy: Unused,
    may_control: Unused,
    add_device_node: Unused,
    remove_device_node: Unused,
    attach_interface: Unused,
    detach_interface: Unused,
    checkpoint: Unused,
    restore: Unused,
    destroy_with_snapshots: Unused,
    snapshot_destroy_all: Unused,
    migrate: Unused,
    console_log: Option<unsafe extern "C" fn(C, *mut ConsoleLog) -> c_int>,
    reboot2: Unused,
    mount: Unused,
    umount: Unused,
    seccomp_notify_fd: Unused,
    seccomp_notify_fd_active: Unused,
    init_pidfd: Option<unsafe extern "C" fn(C) -> c_int>,
    devpts_fd: Option<unsafe extern "C" fn(C) -> c_int>,
}

type AttachRun = unsafe extern "C" fn(*mut c_void) -> c_int;

#[repr(C)]
struct ConsoleLog {
    clear: bool,
    read: bool,
    read_max: *mut u64,
    data: *mut c_char,
}

fn library() -> io::Result<&'static Library> {
    static LIBRARY: OnceLock<Result<Library, String>> = OnceLock::new();
    // SAFETY: liblxc's initialisers only set up its own state.
    let opened = LIBRARY.get_or_init(|| unsafe { Library::new(SONAME) }.map_err(|e| e.to_string()));
    opened.as_ref().map_err(|e| io::Error::other(format!("Containers need liblxc, and it can't be opened: {e}")))
}

fn symbol<T>(name: &str) -> io::Result<Symbol<'static, T>> {
    // SAFETY: the callers name functions of the documented type.
    unsafe { library()?.get(name.as_bytes()) }.map_err(io::Error::other)
}

/// The version of liblxc, as `5.0.2`.
pub fn version() -> io::Result<String> {
    let get: Symbol<'_, unsafe extern "C" fn() -> *const c_char> = symbol("lxc_get_version\0")?;
    // SAFETY: it returns a static string.
    let text = unsafe { CStr::from_ptr(get()) };
    Ok(text.to_string_lossy().into_owned())
}

/// A container, running or not.
pub struct Container {
    raw: C,
}

// SAFETY: liblxc locks a container inside; a handle is used by one thread at a time.
unsafe impl Send for Container {}

fn text(s: &str) -> io::Result<CString> {
    CString::new(s).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a NUL byte in the text"))
}

fn path(p: &Path) -> io::Result<CString> {
    use std::os::unix::ffi::OsStrExt as _;
    CString::new(p.as_os_str().as_bytes())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a NUL byte in the path"))
}

/// A function of the container's table; an error if this liblxc has none of that name.
macro_rules! method {
    ($self:ident, $name:ident) => {{
        // SAFETY: `raw` is a live container of liblxc's until it is dropped.
        unsafe { (*$self.raw).$name }
            .ok_or_else(|| io::Error::other(concat!("liblxc has no function ", stringify!($name))))?
    }};
}

use method;

impl Container {
    /// The container `name` whose command socket is named for `lxcpath` (absolute, and always the same).
    pub fn open(name: &str, lxcpath: &Path, config: Option<&Path>) -> io::Result<Container> {
        let new: Symbol<'_, unsafe extern "C" fn(*const c_char, *const c_char) -> C> = symbol("lxc_container_new\0")?;
        let (name, lxcpath) = (text(name)?, path(lxcpath)?);
        // SAFETY: both are NUL-terminated and copied.
        let raw = unsafe { new(name.as_ptr(), lxcpath.as_ptr()) };
        if raw.is_null() {
            return Err(io::Error::other("liblxc can't open the container"));
        }
        let container = Container { raw };
        if let Some(config) = config {
            let config = path(config)?;
            let load = method!(container, load_config);
            // SAFETY: a live container and a NUL-terminated path.
            if !unsafe { load(container.raw, config.as_ptr()) } {
                return Err(container.error("its configuration is refused"));
            }
        }
        Ok(container)
    }

    fn error(&self, what: &str) -> io::Error {
        // SAFETY: error_string is NULL or a string of liblxc's that lives as long as the container.
        let more = unsafe {
            let text = (*self.raw).error_string;
            if text.is_null() { String::new() } else { format!(": {}", CStr::from_ptr(text).to_string_lossy()) }
        };
        io::Error::other(format!("{what}{more}"))
    }

    /// `RUNNING`, `STOPPED`, `FROZEN`, `STARTING`, `STOPPING`, `ABORTING`, `FREEZING` or `THAWED`.
    pub fn state(&self) -> io::Result<String> {
        let state = method!(self, state);
        // SAFETY: a live container; the result is a static string or NULL.
        let text = unsafe { state(self.raw) };
        if text.is_null() {
            return Ok("STOPPED".into());
        }
        // SAFETY: not NULL, static.
        Ok(unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
    }

    /// Process id of its init, if it runs.
    pub fn init_pid(&self) -> io::Result<Option<u32>> {
        let init_pid = method!(self, init_pid);
        // SAFETY: a live container.
        Ok(u32::try_from(unsafe { init_pid(self.raw) }).ok().filter(|pid| *pid > 0))
    }

    /// Stops all its processes where they are.
    pub fn freeze(&self) -> io::Result<()> {
        let freeze = method!(self, freeze);
        // SAFETY: a live container.
        if unsafe { freeze(self.raw) } { Ok(()) } else { Err(self.error("it can't be frozen")) }
    }

    /// Lets its processes go on.
    pub fn unfreeze(&self) -> io::Result<()> {
        let unfreeze = method!(self, unfreeze);
        // SAFETY: a live container.
        if unsafe { unfreeze(self.raw) } { Ok(()) } else { Err(self.error("it can't be thawed")) }
    }

    /// Ends all its processes.
    pub fn stop(&self) -> io::Result<()> {
        let stop = method!(self, stop);
        // SAFETY: a live container.
        if unsafe { stop(self.raw) } { Ok(()) } else { Err(self.error("it can't be stopped")) }
    }

    /// Asks its init to shut down, and waits so many seconds (-1: for ever; 0: not at all).
    pub fn shutdown(&self, seconds: i32) -> io::Result<bool> {
        let shutdown = method!(self, shutdown);
        // SAFETY: a live container.
        Ok(unsafe { shutdown(self.raw, seconds) })
    }

    /// Sets a cgroup value, as `memory.limit_in_bytes`.
    pub fn set_cgroup(&self, key: &str, value: &str) -> io::Result<()> {
        let set = method!(self, set_cgroup_item);
        let (key_c, value_c) = (text(key)?, text(value)?);
        // SAFETY: a live container, NUL-terminated strings.
        if unsafe { set(self.raw, key_c.as_ptr(), value_c.as_ptr()) } {
            Ok(())
        } else {
            Err(self.error(&format!("{key} can't be set to {value}")))
        }
    }

    /// A cgroup value.
    pub fn cgroup(&self, key: &str) -> io::Result<String> {
        let get = method!(self, get_cgroup_item);
        let key_c = text(key)?;
        let mut buffer = vec![0u8; 4096];
        let size = c_int::try_from(buffer.len()).unwrap_or(0);
        // SAFETY: a live container; it writes at most `size` bytes.
        let len = unsafe { get(self.raw, key_c.as_ptr(), buffer.as_mut_ptr().cast(), size) };
        let len = usize::try_from(len).map_err(|_| io::Error::other(format!("{key} can't be read")))?;
        buffer.truncate(len.min(4096));
        Ok(String::from_utf8_lossy(&buffer).trim_end_matches(['\0', '\n']).to_owned())
    }

    /// What its console has shown since it was started.
    pub fn console_log(&self, clear: bool) -> io::Result<Vec<u8>> {
        let console_log = method!(self, console_log);
        let mut size = 0u64;
        let mut log = ConsoleLog { clear, read: true, read_max: &mut size, data: null_mut() };
        // SAFETY: a live container; `log` outlives the call.
        let code = unsafe { console_log(self.raw, &mut log) };
        match code {
            0 if log.data.is_null() => Ok(Vec::new()),
            // SAFETY: on success liblxc hands out `size` bytes from malloc.
            0 => unsafe {
                let bytes =
                    std::slice::from_raw_parts(log.data.cast::<u8>(), usize::try_from(size).unwrap_or(0)).to_vec();
                libc::free(log.data.cast());
                Ok(bytes)
            },
            code if code == -libc::ENODATA => Ok(Vec::new()),
            code => Err(io::Error::from_raw_os_error(-code)),
        }
    }

    /// Its `/dev/pts`, for making terminals in it.
    pub fn devpts(&self) -> io::Result<OwnedFd> {
        let devpts = method!(self, devpts_fd);
        // SAFETY: a live container.
        let fd = unsafe { devpts(self.raw) };
        if fd < 0 {
            return Err(io::Error::from_raw_os_error(-fd));
        }
        // SAFETY: liblxc hands the descriptor over.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Its console: the terminal, and what keeps it ours for as long as it is open.
    pub fn console(&self) -> io::Result<(OwnedFd, OwnedFd)> {
        let console_getfd = method!(self, console_getfd);
        let (mut number, mut terminal): (c_int, c_int) = (0, -1);
        // SAFETY: a live container; both pointers outlive the call.
        let hold = unsafe { console_getfd(self.raw, &raw mut number, &raw mut terminal) };
        if hold < 0 || terminal < 0 {
            return Err(self.error("its console can't be had"));
        }
        // SAFETY: liblxc hands both descriptors over.
        Ok(unsafe { (OwnedFd::from_raw_fd(terminal), OwnedFd::from_raw_fd(hold)) })
    }

    /// Starts it; its monitor goes on when this process ends. Forks: only in a process with one thread.
    pub fn start(&self) -> io::Result<()> {
        let (want, close, start) =
            (method!(self, want_daemonize), method!(self, want_close_all_fds), method!(self, start));
        // SAFETY: a live container; liblxc takes a NULL argv as none.
        let started = unsafe { want(self.raw, true) && close(self.raw, true) && start(self.raw, 0, null()) };
        if started { Ok(()) } else { Err(self.error("it can't be started")) }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if let Ok(put) = symbol::<unsafe extern "C" fn(C) -> c_int>("lxc_container_put\0") {
            // SAFETY: the last use of the container by this handle.
            unsafe { put(self.raw) };
        }
    }
}
