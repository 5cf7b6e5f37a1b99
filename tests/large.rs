//! Arguments and results of all sizes, below and above what fits into a pipe: they come back as they
//! went.

mod common;

use std::thread;

use bytes::Bytes;
use common::watched;
use freethreading::{
    Backend, Effect, Part, Portable, Queue, TaskError, WorkerPool, WorkerPoolExecutor, task,
};
use serde_bytes::ByteBuf;

freethreading::init_tests!();

/// Below and above whatever size could be the first to travel another way, with and without the
/// length in front.
fn sizes() -> Vec<usize> {
    let mut sizes = vec![0, 1];
    for limit in [16 << 10, 24 << 10, 32 << 10, 64 << 10, 128 << 10] {
        sizes.extend([limit - 9, limit - 8, limit - 7, limit - 1, limit, limit + 1]);
    }
    sizes.push(1 << 20);
    sizes
}

const LARGEST: usize = 64 << 20;

/// No two blocks of it are alike.
fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut word = len as u64;
    for chunk in bytes.chunks_mut(8) {
        word = word
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(0x9e37_79b9_7f4a_7c15);
        chunk.copy_from_slice(&word.to_be_bytes()[..chunk.len()]);
    }
    bytes
}

fn text(len: usize) -> String {
    let mut text: Vec<u8> = noise(len).iter().map(|byte| b'a' + byte % 26).collect();
    if len > 100 {
        text[len / 2..len / 2 + 2].copy_from_slice("é".as_bytes());
    }
    String::from_utf8(text).unwrap()
}

fn echo<T>(value: T) -> T {
    value
}

fn sum(bytes: ByteBuf) -> u64 {
    bytes.iter().map(|&byte| u64::from(byte)).sum()
}

/// The values come back from a worker, alone and with others around them.
#[track_caller]
fn come_back<T: Portable + Clone + PartialEq>(
    sizes: impl IntoIterator<Item = usize>,
    make: impl Fn(usize) -> T,
) {
    watched(|| {
        let executor = WorkerPoolExecutor::new(1).unwrap();
        for size in sizes {
            let value = make(size);
            let back = executor.submit(task!(echo(value.clone())));
            assert!(back.result().unwrap() == value, "{size}");
            let all = (7u8, vec![value], String::from("and"), Some(3u64));
            let back = executor.submit(task!(echo(all.clone())));
            assert!(back.result().unwrap() == all, "{size}, among others");
        }
    });
}

freethreading::test_backends! {
    #[test]
    fn vectors_of_bytes_come_back() {
        come_back(sizes(), noise);
    }

    #[test]
    fn byte_buffers_come_back() {
        come_back(sizes(), |len| ByteBuf::from(noise(len)));
    }

    #[test]
    fn shared_bytes_come_back() {
        come_back(sizes(), |len| Bytes::from(noise(len)));
    }

    #[test]
    fn strings_come_back() {
        come_back(sizes(), text);
    }

    #[test]
    fn vectors_of_strings_come_back() {
        come_back(sizes(), |len| {
            let text = text(len);
            text.split('q').map(String::from).collect::<Vec<_>>()
        });
    }

    #[test]
    fn vectors_of_numbers_come_back() {
        come_back(sizes(), |len| (0..len / 8).map(|n| n as f64 / 3.0).collect::<Vec<_>>());
    }

    #[test]
    fn byte_buffers_of_64_mib_come_back() {
        come_back([LARGEST], |len| ByteBuf::from(noise(len)));
    }

    #[test]
    fn shared_bytes_of_64_mib_come_back() {
        come_back([LARGEST], |len| Bytes::from(noise(len)));
    }

    #[test]
    fn strings_of_64_mib_come_back() {
        come_back([LARGEST], text);
    }

    #[test]
    fn numbers_of_many_mib_come_back() {
        // Without optimisation, what goes through serde one by one takes long.
        let len = if cfg!(debug_assertions) { LARGEST / 8 } else { LARGEST };
        come_back([len], |len| (0..len / 8).map(|n| n as f64 / 3.0).collect::<Vec<_>>());
        come_back([len / 8], noise);
        come_back([len], |len| vec![text(len / 64); 64]);
    }

    #[test]
    fn a_small_argument_has_a_large_result_and_the_other_way_round() {
        watched(|| {
            let executor = WorkerPoolExecutor::new(1).unwrap();
            for len in sizes().into_iter().chain([LARGEST]) {
                let bytes = executor.submit(task!(|len| ByteBuf::from(vec![7u8; len])));
                let bytes = bytes.result().unwrap();
                assert!(bytes.len() == len && bytes.iter().all(|&byte| byte == 7));
                let sum = executor.submit(task!(sum(bytes)));
                assert_eq!(sum.result().unwrap(), 7 * len as u64);
            }
        });
    }

    #[test]
    fn many_threads_send_much_at_once() {
        watched(|| {
            let executor = WorkerPoolExecutor::new(2).unwrap();
            let queue = Queue::new(4);
            thread::scope(|scope| {
                for number in 0..6 {
                    let executor = &executor;
                    scope.spawn(move || {
                        let values = (0..8).map(|n| ByteBuf::from(noise((n + number) * 100_000)));
                        let values: Vec<_> = values.collect();
                        let sent = values.iter().cloned();
                        let futures: Vec<_> =
                            sent.map(|value| executor.submit(task!(echo(value)))).collect();
                        for (future, value) in futures.into_iter().zip(values) {
                            assert!(future.result().unwrap() == value);
                        }
                    });
                }
                // Items of a queue, beside them.
                let items = 40;
                let other = queue.clone();
                let put = executor.submit(task!(|other, items| {
                    for _ in 0..items {
                        other.put(ByteBuf::from(vec![9; 200_000])).unwrap();
                    }
                }));
                for _ in 0..items {
                    let item: ByteBuf = queue.get().unwrap();
                    assert!(item.len() == 200_000 && item.iter().all(|&byte| byte == 9));
                }
                put.result().unwrap();
            });
        });
    }

    #[test]
    fn a_map_has_large_items_and_results() {
        watched(|| {
            let pool = WorkerPool::new(2).unwrap();
            let items: Vec<_> = (0..20).map(|n| ByteBuf::from(noise(n * 50_000))).collect();
            assert!(pool.map(echo::<ByteBuf>, items.clone()).unwrap() == items);
            assert!(pool.chunksize(5).map(echo::<ByteBuf>, items.clone()).unwrap() == items);
            let results: Result<Vec<_>, _> =
                pool.imap(echo::<ByteBuf>, items.clone()).unwrap().collect();
            assert!(results.unwrap() == items);
        });
    }

    #[test]
    fn a_worker_has_workers_of_its_own() {
        watched(|| {
            let executor = WorkerPoolExecutor::new(1).unwrap();
            let value = ByteBuf::from(noise(3_000_000));
            let sent = value.clone();
            let back = executor.submit(task!(|sent| {
                let executor = WorkerPoolExecutor::new(1).unwrap();
                executor.submit(task!(|sent| echo::<ByteBuf>(sent))).result().unwrap()
            }));
            assert!(back.result().unwrap() == value);
        });
    }
}

#[test]
fn what_is_above_the_limit_is_refused_and_what_is_not_is_not() {
    watched(|| {
        const LIMIT: usize = 3 << 20;
        let executor = WorkerPoolExecutor::builder()
            .max_workers(1)
            .backend(Backend::Multiprocessing)
            .max_frame_len(LIMIT)
            .build()
            .unwrap();
        let there = |len: usize| {
            let bytes = ByteBuf::from(vec![7; len]);
            executor.submit(task!(|bytes| bytes.len())).result()
        };
        let back = |len: usize| {
            let result = executor.submit(task!(|len| ByteBuf::from(vec![7; len])));
            result.result().map(|bytes| bytes.len())
        };
        let both: [(&dyn Fn(usize) -> _, _, _); 2] = [
            (&there, Part::Argument, Effect::DidNotRun),
            (&back, Part::Result, Effect::Ran),
        ];
        for (send, part, effect) in both {
            assert_eq!(send(LIMIT - 200).unwrap(), LIMIT - 200);
            for len in [LIMIT, LIMIT + 1, 2 * LIMIT, 20 * LIMIT] {
                let error: TaskError = send(len).unwrap_err();
                assert_eq!(error.effect(), effect);
                let TaskError::TooLarge(sizes) = error else {
                    panic!("{error}");
                };
                assert_eq!((sizes.part(), sizes.limit()), (part, LIMIT as u64));
                // The frame has a header, too.
                assert!((len as u64..len as u64 + 200).contains(&sizes.size()));
            }
            assert_eq!(send(LIMIT - 200).unwrap(), LIMIT - 200);
        }
    });
}
