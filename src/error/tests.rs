use std::{
    fmt::{Debug, Display},
    io::{self, ErrorKind},
    iter,
    time::Duration,
};

use super::*;
use crate::{
    arena::passage::{Luggage, Reach},
    codec,
    task::Portable,
};

/// The value as it comes out of another process.
fn arrived<T: Portable>(value: &T) -> T {
    let (mut bytes, mut none) = (Vec::new(), Luggage::default());
    codec::encode(value, &mut bytes, Part::Result, Reach::Beyond, &mut none).unwrap();
    codec::decode(&bytes, Part::Result).unwrap()
}

fn died(task: Option<&'static str>, death: Death, effect: Effect) -> TaskError {
    let stderr = "thread 'main' panicked\nat the worst moment".into();
    TaskError::WorkerDied(WorkerDied::new("w".into(), 7, death, task, effect, stderr))
}

fn killed(limit: Option<Duration>) -> Killed {
    Killed::new("w".into(), 7, "program::task", Effect::MayHaveRun, limit)
}

fn refused(cause: io::Error) -> StartError {
    StartError::new("w", cause)
}

/// Each kind of error of a task, and of what is in it.
fn task_errors() -> Vec<TaskError> {
    let item = CodecError::new(Part::Result, "program::Item", &"no");
    let cause = died(None, Death::Exited(3), Effect::DidNotRun);
    vec![
        TaskError::Panicked(Panic::new("no".into(), Some("a.rs:1:2".into()), None)),
        TaskError::Panicked(Panic::new("no".into(), None, Some("main".into()))),
        died(
            Some("program::task"),
            Death::Signaled(9),
            Effect::MayHaveRun,
        ),
        died(None, Death::Protocol("noise".into()), Effect::Ran),
        died(None, Death::Silent, Effect::DidNotRun),
        died(None, Death::Unobserved("why".into()), Effect::MayHaveRun),
        TaskError::Cancelled,
        TaskError::Killed(killed(None)),
        TaskError::TimeLimit(killed(Some(Duration::from_millis(1500)))),
        TaskError::Shutdown,
        TaskError::Terminated(Effect::MayHaveRun),
        TaskError::Encode(CodecError::new(Part::Argument, "(u8,)", &"no")),
        TaskError::Decode(item.of_item()),
        TaskError::TooLarge(TooLarge::new(Part::Result, 5, 4)),
        TaskError::Mismatch("another build".into()),
        TaskError::SharedLibrary("plugin::task".into()),
        TaskError::Start(refused(io::Error::from_raw_os_error(libc::EAGAIN))),
        TaskError::Start(refused(io::Error::new(
            ErrorKind::NotFound,
            "no program: a",
        ))),
        TaskError::Start(refused(ErrorKind::PermissionDenied.into())),
        TaskError::Start(refused(io::Error::other("no reactor"))),
        TaskError::Broken(Broken::new(true, 3, cause.clone())),
        TaskError::Broken(Broken::new(
            false,
            5,
            TaskError::Broken(Broken::new(false, 2, cause)),
        )),
        TaskError::InvalidArgument("a 0".into()),
        TaskError::Timeout,
        TaskError::Taken,
    ]
}

/// Each kind of error of this crate.
fn errors() -> Vec<Error> {
    let mut errors: Vec<_> = task_errors().into_iter().map(Error::Task).collect();
    errors.extend([
        Error::InvalidArgument("a 0".into()),
        Error::InvalidBackend("fork".into()),
        Error::BackendDecided(Backend::Threading),
        Error::NotInitialized,
        Error::Unsupported("not here".into()),
        Error::Start(refused(io::Error::from_raw_os_error(libc::ENOMEM))),
        Error::AlreadyStarted,
        Error::NotStarted,
        Error::NotRunning,
        Error::StillRunning,
        Error::JoinSelf,
        Error::Timeout,
        Error::NotHeld,
        Error::NotOwned,
        Error::Overflow,
        Error::BrokenBarrier,
        Error::Full,
        Error::Empty,
        Error::TooManyTaskDone,
        Error::Codec(CodecError::new(Part::Result, "u8", &"no").of_item()),
        Error::Arena("no".into()),
    ]);
    errors
}

/// That the errors arrive as what they were: equal, and with the same to say.
#[track_caller]
fn arrive<T: Portable + Debug + Display + PartialEq>(errors: impl IntoIterator<Item = T>) {
    for error in errors {
        let arrived = arrived(&error);
        assert_eq!(arrived, error);
        assert_eq!(arrived.to_string(), error.to_string());
        assert_eq!(format!("{arrived:?}"), format!("{error:?}"));
    }
}

#[test]
fn errors_arrive_as_what_they_were() {
    arrive(task_errors());
    for error in task_errors() {
        assert_eq!(arrived(&error).effect(), error.effect());
    }
    arrive(errors());
}

#[test]
fn an_effect_is_said_as_errors_say_it() {
    for effect in [Effect::DidNotRun, Effect::Ran, Effect::MayHaveRun] {
        let died = died(None, Death::Silent, effect);
        for error in [died, TaskError::Terminated(effect)] {
            let text = error.to_string();
            assert!(text.contains(&format!("the task {effect}")), "{text}");
        }
    }
    assert_eq!(Effect::DidNotRun.to_string(), "did not run");
}

#[test]
fn errors_of_primitives_arrive_as_what_they_were() {
    let codec = || CodecError::new(Part::Argument, "u8", &"no").of_item();
    arrive([NotHeld]);
    arrive([NotOwned]);
    arrive([Overflow]);
    arrive([TooManyTaskDone]);
    arrive([BarrierError::Broken]);
    arrive(task_errors().into_iter().map(BarrierError::Action));
    arrive([GetError::Empty, GetError::Decode(codec())]);
    arrive([
        PutError::Full(1u8),
        PutError::Encode(2, codec()),
        PutError::NoMemory(3),
    ]);
    arrive([Full("task".to_string())]);
}

#[test]
fn what_the_system_said_arrives() {
    let said = |cause: io::Error| arrived(&refused(cause));
    for code in 1..=libc::EHWPOISON {
        let error = said(io::Error::from_raw_os_error(code));
        assert_eq!(error.io_error().raw_os_error(), Some(code));
    }
    let missing = said(io::Error::new(ErrorKind::NotFound, "no program: a"));
    let missing = missing.io_error();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    assert_eq!(missing.to_string(), "no program: a");
    // No code of the system's means that.
    let short = said(io::Error::new(ErrorKind::WriteZero, "no room"));
    assert_eq!(short.io_error().kind(), ErrorKind::Other);
    assert_eq!(short.io_error().to_string(), "no room");
}

/// What a report of the error consists of.
fn report(error: &dyn std::error::Error) -> Vec<String> {
    iter::successors(Some(error), |&error| error.source())
        .map(|error| error.to_string())
        .collect()
}

#[test]
fn a_report_says_nothing_twice() {
    /// Is caused by another error.
    #[derive(Debug)]
    struct Outer;

    impl Display for Outer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("the system is to blame")
        }
    }

    impl std::error::Error for Outer {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(&NotHeld)
        }
    }

    let start = || refused(io::Error::other(Outer));
    let broken = Broken::new(false, 3, TaskError::Start(start()));
    let caused: [&dyn std::error::Error; 7] = [
        &start(),
        &broken,
        &TaskError::Start(start()),
        &TaskError::Broken(broken.clone()),
        &BarrierError::Action(TaskError::Start(start())),
        &Error::Start(start()),
        &Error::Task(TaskError::Broken(broken.clone())),
    ];
    for error in caused {
        let report = report(error);
        assert!(report[0].contains("the system is to blame"), "{report:?}");
        assert_eq!(report[1..], [NotHeld.to_string()]);
    }
    for error in errors() {
        assert_eq!(report(&error), [error.to_string()]);
    }
}

#[test]
fn what_one_sees_of_an_error_that_is_unwrapped_is_its_text() {
    let start = || refused(io::Error::from_raw_os_error(libc::EAGAIN));
    assert_eq!(
        format!("{:?}", Error::NotInitialized),
        format!("NotInitialized: {}", Error::NotInitialized)
    );
    assert_eq!(
        format!("{:?}", Error::Task(TaskError::Taken)),
        "Task: Taken: the result was taken before"
    );
    assert_eq!(
        format!("{:?}", TaskError::Start(start())),
        format!("Start: {}", start())
    );
    assert_eq!(format!("{:?}", start()), format!("StartError: {}", start()));
}
