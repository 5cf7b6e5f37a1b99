//! A shared library with a copy of the crate of its own, for the test of shared libraries.

use std::ffi::{CString, c_char};

use freethreading::{Backend, Error, Worker, WorkerPoolExecutor, task};

fn square(x: u64) -> u64 {
    x * x
}

/// Says how it goes with workers that are to run functions of this library: a line each.
#[unsafe(no_mangle)]
pub extern "C" fn say_how_workers_do(processes: bool) -> *mut c_char {
    freethreading::init();
    let backend = if processes {
        Backend::Multiprocessing
    } else {
        Backend::Threading
    };
    let report = [
        worker(backend),
        submit(backend),
        map(backend),
        initializer(backend),
    ];
    let report: Vec<String> = report
        .into_iter()
        .map(|result| match result {
            Ok(value) => format!("value: {value}"),
            Err(error) => format!("{error:?}: {error}").replace('\n', " "),
        })
        .collect();
    CString::new(report.join("\n")).unwrap().into_raw()
}

fn worker(backend: Backend) -> Result<u64, Error> {
    let worker = Worker::new(task!(square(3))).backend(backend);
    worker.start()?;
    worker.join()?;
    Ok(9)
}

fn executor(backend: Backend) -> freethreading::WorkerPoolExecutorBuilder {
    WorkerPoolExecutor::builder()
        .max_workers(1)
        .backend(backend)
}

fn submit(backend: Backend) -> Result<u64, Error> {
    Ok(executor(backend)
        .build()?
        .submit(task!(square(3)))
        .result()?)
}

fn map(backend: Backend) -> Result<u64, Error> {
    let squares = executor(backend).build()?.map(square, 2..3).into_vec()?;
    Ok(squares.iter().sum())
}

fn initializer(backend: Backend) -> Result<u64, Error> {
    let executor = executor(backend).initializer(task!(square(3))).build()?;
    Ok(executor.submit(task!(square(4))).result()?)
}
