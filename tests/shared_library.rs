//! Functions of a shared library: threads can call them, worker processes cannot find them.

mod common;

use std::{
    env,
    ffi::{CStr, CString, c_char},
};

use common::watched;

freethreading::init_tests!();

/// What the library says of its workers, a line each.
fn report(processes: bool) -> Vec<String> {
    // Next to the directory where this test program is.
    let directory = env::current_exe().unwrap();
    let directory = directory.parent().unwrap().parent().unwrap();
    let path = directory.join("examples").join("libplugin.so");
    assert!(
        path.exists(),
        "the library is built by `cargo test` without `--test`, and by `cargo build --example plugin`"
    );
    let path = CString::new(path.into_os_string().into_encoded_bytes()).unwrap();
    // SAFETY: the strings end with zero bytes; the library runs no code when it is loaded.
    let function = unsafe {
        let library = libc::dlopen(path.as_ptr(), libc::RTLD_NOW);
        assert!(!library.is_null(), "the library cannot be loaded");
        libc::dlsym(library, c"say_how_workers_do".as_ptr())
    };
    assert!(!function.is_null(), "the library has no such function");
    type Say = extern "C" fn(bool) -> *mut c_char;
    // SAFETY: the library, which is never unloaded, defines the function with this signature.
    let say = unsafe { std::mem::transmute::<*mut libc::c_void, Say>(function) };
    let said = say(processes);
    // SAFETY: what it gives is a string that ends with a zero byte, and stays.
    let said = unsafe { CStr::from_ptr(said) };
    said.to_str().unwrap().lines().map(String::from).collect()
}

#[test]
fn worker_processes_refuse_functions_of_a_shared_library() {
    watched(|| {
        let report = report(true);
        assert_eq!(report.len(), 4);
        for line in report {
            assert!(line.contains("SharedLibrary"), "{line}");
            assert!(line.contains("square"), "{line}");
            assert!(line.contains("lies in a shared library"), "{line}");
            assert!(line.contains("a function of the program itself"), "{line}");
        }
    });
}

#[test]
fn threads_run_functions_of_a_shared_library() {
    watched(|| {
        assert_eq!(
            report(false),
            ["value: 9", "value: 9", "value: 4", "value: 16"]
        );
    });
}
