//! The VFS that SQLite is given: that of the system, and before it, for files on a disk of ours, that disk.

use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::mem::size_of;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use rusqlite::ffi::{self, sqlite3_file, sqlite3_int64, sqlite3_io_methods, sqlite3_vfs};

use crate::{Disk, Fault, find};

/// A file on a disk of ours. SQLite allots the memory; the system's own file lies behind it.
#[repr(C)]
struct Shim {
    base: sqlite3_file,
    of: *mut Of,
}

struct Of {
    disk: Arc<dyn Disk>,
    name: String,
}

/// The system's own VFS.
struct System(*mut sqlite3_vfs);

// SAFETY: SQLite hands out the pointer for the life of the program, and the VFS is made for use by all threads.
unsafe impl Send for System {}
// SAFETY: as above; nothing is written through it.
unsafe impl Sync for System {}

fn system() -> *mut sqlite3_vfs {
    static SYSTEM: OnceLock<System> = OnceLock::new();
    // SAFETY: may be called at any time; it is called for the first time before there is another default than the
    // system's.
    SYSTEM.get_or_init(|| System(unsafe { ffi::sqlite3_vfs_find(std::ptr::null()) })).0
}

/// Makes it the way that this program's SQLite goes to files.
pub fn install() -> Result<(), String> {
    static INSTALLED: OnceLock<Result<(), String>> = OnceLock::new();
    let install = || {
        let system = system();
        if system.is_null() {
            return Err("SQLite has no way to files".into());
        }
        // SAFETY: the VFS that is registered is never freed. It is a copy of the system's but for what is set here, whose
        // functions, where they take no file, don't care for which VFS they are called.
        let code = unsafe {
            let ours = Box::new(sqlite3_vfs {
                szOsFile: (*system).szOsFile + size_of::<Shim>() as c_int,
                pNext: std::ptr::null_mut(),
                zName: c"disks".as_ptr(),
                xOpen: Some(open),
                xDelete: Some(delete),
                ..*system
            });
            ffi::sqlite3_vfs_register(Box::into_raw(ours), 1)
        };
        match code {
            ffi::SQLITE_OK => Ok(()),
            code => Err(format!("SQLite takes no other way to files: error {code}")),
        }
    };
    INSTALLED.get_or_init(install).clone()
}

/// Calls a method of a file that is open; the caller says that its pointer is one.
macro_rules! call {
    ($file:expr, $method:ident $(, $argument:expr)*) => {
        match (*(*$file).pMethods).$method {
            Some(method) => method($file $(, $argument)*),
            None => ffi::SQLITE_IOERR,
        }
    };
}

/// The file as it really is.
pub struct Real(*mut sqlite3_file);

impl Real {
    /// Up to so many bytes from there on: fewer where the file ends.
    pub fn read(&self, at: u64, length: usize) -> Vec<u8> {
        let length = usize::try_from(self.length().saturating_sub(at)).unwrap_or(0).min(length);
        if length == 0 {
            return Vec::new();
        }
        let mut bytes = vec![0_u8; length];
        // SAFETY: the buffer is as long as is said, and the file is open.
        let read = unsafe { call!(self.0, xRead, bytes.as_mut_ptr().cast(), length as c_int, at.cast_signed()) };
        if read == ffi::SQLITE_OK { bytes } else { Vec::new() }
    }

    /// Its length in bytes.
    pub fn length(&self) -> u64 {
        let mut length = 0;
        // SAFETY: the integer outlives the call, and the file is open.
        let asked = unsafe { call!(self.0, xFileSize, &raw mut length) };
        if asked == ffi::SQLITE_OK { u64::try_from(length).unwrap_or(0) } else { 0 }
    }
}

/// The system's own file behind ours.
///
/// # Safety
/// `file` was opened by [`open`].
unsafe fn behind(file: *mut sqlite3_file) -> *mut sqlite3_file {
    // SAFETY: `szOsFile` has room for both, one after the other.
    unsafe { file.cast::<Shim>().add(1).cast() }
}

/// Whose file it is.
///
/// # Safety
/// `file` was opened by [`open`] and not closed since.
unsafe fn of<'a>(file: *mut sqlite3_file) -> &'a Of {
    // SAFETY: set by `open`, freed by `close` only.
    unsafe { &*(*file.cast::<Shim>()).of }
}

/// # Safety
/// `name` is a text that ends with a zero, or null.
unsafe fn disk_of(name: *const c_char) -> Option<Of> {
    if name.is_null() {
        return None;
    }
    // SAFETY: it is not null.
    let name = unsafe { CStr::from_ptr(name) };
    find(Path::new(OsStr::from_bytes(name.to_bytes()))).map(|(disk, name)| Of { disk, name })
}

/// What follows from here on is called by SQLite, with files that it has opened by `open` and pointers that are good for
/// the call: that is the reason that all of it is safe, by the contract of `sqlite3_vfs` and `sqlite3_io_methods`.
unsafe extern "C" fn open(
    _: *mut sqlite3_vfs,
    name: *const c_char,
    file: *mut sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    let system = system();
    // SAFETY: see above. A file that is on no disk is wholly the system's, at the place of ours.
    unsafe {
        let Some(open) = (*system).xOpen else { return ffi::SQLITE_CANTOPEN };
        let Some(of) = disk_of(name) else { return open(system, name, file, flags, out) };
        (*file).pMethods = std::ptr::null();
        (*behind(file)).pMethods = std::ptr::null();
        let opened = open(system, name, behind(file), flags, out);
        if opened == ffi::SQLITE_OK {
            (*file.cast::<Shim>()).of = Box::into_raw(Box::new(of));
            (*file).pMethods = &raw const METHODS;
        } else if !(*behind(file)).pMethods.is_null() {
            call!(behind(file), xClose);
        }
        opened
    }
}

unsafe extern "C" fn delete(_: *mut sqlite3_vfs, name: *const c_char, sync: c_int) -> c_int {
    let system = system();
    // SAFETY: see `open`.
    unsafe {
        let Some(delete) = (*system).xDelete else { return ffi::SQLITE_IOERR_DELETE };
        let deleted = delete(system, name, sync);
        if let Some(of) = disk_of(name).filter(|_| deleted == ffi::SQLITE_OK) {
            of.disk.removed(&of.name);
        }
        deleted
    }
}

static METHODS: sqlite3_io_methods = sqlite3_io_methods {
    // Without mapping files into memory.
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};

fn code(fault: Fault, broken: c_int) -> c_int {
    match fault {
        Fault::Broken => broken,
        Fault::Full => ffi::SQLITE_FULL,
    }
}

unsafe extern "C" fn close(file: *mut sqlite3_file) -> c_int {
    // SAFETY: see `open`, which made the box; SQLite closes a file once.
    unsafe {
        let closed = call!(behind(file), xClose);
        drop(Box::from_raw((*file.cast::<Shim>()).of));
        (*file).pMethods = std::ptr::null();
        closed
    }
}

unsafe extern "C" fn read(file: *mut sqlite3_file, to: *mut c_void, length: c_int, at: sqlite3_int64) -> c_int {
    // SAFETY: see `open`.
    unsafe {
        let of = of(file);
        match of.disk.read(&of.name) {
            Ok(()) => call!(behind(file), xRead, to, length, at),
            Err(fault) => code(fault, ffi::SQLITE_IOERR_READ),
        }
    }
}

unsafe extern "C" fn write(file: *mut sqlite3_file, from: *const c_void, length: c_int, at: sqlite3_int64) -> c_int {
    // SAFETY: see `open`; fewer bytes than there are may be written.
    unsafe {
        let (of, real) = (of(file), behind(file));
        match of.disk.write(&of.name, &Real(real), at.cast_unsigned(), length.cast_unsigned() as usize) {
            Ok(()) => call!(real, xWrite, from, length, at),
            Err((fault, done)) => {
                let done = c_int::try_from(done).unwrap_or(length).min(length);
                if done > 0 {
                    call!(real, xWrite, from, done, at);
                }
                code(fault, ffi::SQLITE_IOERR_WRITE)
            }
        }
    }
}

unsafe extern "C" fn truncate(file: *mut sqlite3_file, to: sqlite3_int64) -> c_int {
    // SAFETY: see `open`.
    unsafe {
        let (of, real) = (of(file), behind(file));
        match of.disk.truncate(&of.name, &Real(real), to.cast_unsigned()) {
            Ok(()) => call!(real, xTruncate, to),
            Err(fault) => code(fault, ffi::SQLITE_IOERR_TRUNCATE),
        }
    }
}

unsafe extern "C" fn sync(file: *mut sqlite3_file, _: c_int) -> c_int {
    // SAFETY: see `open`. The real file need not be synced: who simulates a power cut knows what was.
    unsafe {
        let (of, real) = (of(file), behind(file));
        match of.disk.sync(&of.name, &Real(real)) {
            Ok(()) => ffi::SQLITE_OK,
            Err(fault) => code(fault, ffi::SQLITE_IOERR_FSYNC),
        }
    }
}

/// Methods that only go on to the file behind.
macro_rules! through {
    ($($name:ident: $method:ident($($argument:ident: $kind:ty),*);)*) => {$(
        unsafe extern "C" fn $name(file: *mut sqlite3_file $(, $argument: $kind)*) -> c_int {
            // SAFETY: see `open`.
            unsafe { call!(behind(file), $method $(, $argument)*) }
        }
    )*};
}

through! {
    file_size: xFileSize(to: *mut sqlite3_int64);
    lock: xLock(level: c_int);
    unlock: xUnlock(level: c_int);
    check_reserved_lock: xCheckReservedLock(to: *mut c_int);
    file_control: xFileControl(what: c_int, argument: *mut c_void);
    sector_size: xSectorSize();
    device_characteristics: xDeviceCharacteristics();
    shm_map: xShmMap(page: c_int, size: c_int, extend: c_int, to: *mut *mut c_void);
    shm_lock: xShmLock(at: c_int, count: c_int, flags: c_int);
    shm_unmap: xShmUnmap(delete: c_int);
}

unsafe extern "C" fn shm_barrier(file: *mut sqlite3_file) {
    // SAFETY: see `open`.
    unsafe {
        let real = behind(file);
        if let Some(barrier) = (*(*real).pMethods).xShmBarrier {
            barrier(real);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};

    use rusqlite::Connection;

    use super::*;

    #[derive(Default)]
    struct Watching {
        seen: Mutex<Vec<String>>,
        full: AtomicBool,
    }

    impl Watching {
        fn saw(&self, what: String) {
            self.seen.lock().unwrap().push(what);
        }
    }

    impl Disk for Watching {
        fn read(&self, _: &str) -> Result<(), Fault> {
            Ok(())
        }

        fn write(&self, name: &str, real: &Real, at: u64, length: usize) -> Result<(), (Fault, usize)> {
            self.saw(format!("write {name} {}", real.read(at, length).len()));
            if self.full.load(Ordering::Relaxed) { Err((Fault::Full, 10)) } else { Ok(()) }
        }

        fn truncate(&self, name: &str, _: &Real, _: u64) -> Result<(), Fault> {
            self.saw(format!("truncate {name}"));
            Ok(())
        }

        fn sync(&self, name: &str, real: &Real) -> Result<(), Fault> {
            self.saw(format!("sync {name} {}", real.length()));
            Ok(())
        }

        fn removed(&self, name: &str) {
            self.saw(format!("removed {name}"));
        }
    }

    #[test]
    fn a_disk_is_asked_and_may_refuse() {
        let (ours, others) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let disk = Arc::new(Watching::default());
        let mounted = crate::mount(ours.path(), disk.clone()).unwrap();
        let make = |dir: &Path| {
            let db = Connection::open(dir.join("a.db")).unwrap();
            db.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; CREATE TABLE t (a)").unwrap();
            db
        };
        drop(make(others.path()));
        assert_eq!(*disk.seen.lock().unwrap(), [""; 0], "of another folder");
        let db = make(ours.path());
        let seen = std::mem::take(&mut *disk.seen.lock().unwrap());
        for what in ["write a.db 0", "write a.db-wal 0", "removed a.db-journal"] {
            assert!(seen.iter().any(|s| s == what), "{what}: {seen:?}");
        }
        assert!(seen.iter().any(|s| s.starts_with("sync a.db-wal ")), "{seen:?}");

        disk.full.store(true, Ordering::Relaxed);
        let refused = db.execute_batch("INSERT INTO t VALUES (1)").unwrap_err();
        assert_eq!(refused.sqlite_error_code(), Some(rusqlite::ErrorCode::DiskFull));
        disk.full.store(false, Ordering::Relaxed);
        db.execute_batch("INSERT INTO t VALUES (2)").unwrap();
        assert_eq!(db.query_row("SELECT sum(a) FROM t", [], |r| r.get(0)), Ok(2));
        drop((db, mounted));
        assert!(disk.seen.lock().unwrap().iter().any(|s| s == "removed a.db-wal"));
        disk.seen.lock().unwrap().clear();
        drop(Connection::open(ours.path().join("a.db")).unwrap().execute_batch("DELETE FROM t"));
        assert_eq!(*disk.seen.lock().unwrap(), [""; 0], "it is not there any more");
    }
}
