//! How a function is named across processes.
//!
//! Every pair of a function type and an argument type has a constant [`Entry`] in the executable.
//! What is sent is the entry's distance from the start of the executable's image, with a hash of the
//! two types' names; the receiver checks both before it calls anything. The function value itself is
//! never sent: it has size zero, so its type, which the entry knows, is all there is to it.
#![allow(unsafe_code)]

use std::{
    any::type_name,
    hash::{DefaultHasher, Hash, Hasher},
    ptr::NonNull,
    sync::OnceLock,
};

use serde::{Deserialize, Serialize};

use super::{Callable, Portable};
use crate::{
    arena::passage,
    codec::{self, Encoded, Freight},
    error::{CodecError, Panic, Part, TaskError},
    unwind,
};

/// Runs the function of one entry: decodes the arguments, calls, encodes the result for the reply, or
/// drops the result if there is no reply.
type Run = fn(Encoded<'_>, Option<Reply<'_>>) -> Result<Freight, Failure>;

/// Where a result goes.
pub(crate) struct Reply<'a> {
    /// Behind what is in it, unless the result is large.
    pub(crate) frame: &'a mut Vec<u8>,
    /// The largest frame.
    pub(crate) limit: usize,
}

/// What another process needs to call one function with one type of arguments.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Entry {
    magic: [u64; 2],
    pub(super) function_name: fn() -> &'static str,
    argument_name: fn() -> &'static str,
    run: Run,
}

/// Random, so that nothing else in an image looks like an entry.
const MAGIC: [u64; 2] = [0x9c1f_63da_5e0b_7742, 0xd58a_2e94_b17c_30e9];

/// The name of a function in messages between processes of one executable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FunctionId {
    /// Bytes from the start of the executable's image to the entry.
    offset: u64,
    /// Hash of the type names, so that two builds that differ are told apart.
    hash: u64,
}

/// Why a task did not give a result, as one process tells another.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Failure {
    Panicked(Panic),
    Encode(CodecError),
    Decode(CodecError),
}

impl From<Failure> for TaskError {
    fn from(failure: Failure) -> TaskError {
        match failure {
            Failure::Panicked(panic) => TaskError::Panicked(panic),
            Failure::Encode(error) => TaskError::Encode(error),
            Failure::Decode(error) => TaskError::Decode(error),
        }
    }
}

pub(crate) fn entry<F, A>() -> &'static Entry
where
    F: Callable<A>,
    A: Portable,
    F::Output: Portable,
{
    const {
        &Entry {
            magic: MAGIC,
            function_name: type_name::<F>,
            argument_name: type_name::<A>,
            run: run::<F, A>,
        }
    }
}

/// The function of type `F`, rebuilt from nothing.
pub(crate) fn summon<F: Send + Sync + 'static>() -> &'static F {
    const {
        assert!(
            size_of::<F>() == 0,
            "a task's function must capture nothing, so that it can run in another process: \
             pass values as arguments, `task!(f(x))`, or name what the closure captures, \
             `task!(|x, y| …)`; in a map, make them part of the items, as for `starmap`; \
             a `fn` pointer must be replaced by the function itself"
        );
    }
    // SAFETY: `F` has size zero, so the dangling pointer, which is aligned, is valid for it. A value of
    // `F` exists for as long as the program runs: `Function::of`, `Chunk::of` or `Spread::start` took one
    // and forgot it, in this process or in the one that sent the task; what tells the two apart must not be
    // captured, as `IntoTask` says. It is only shared, which `F: Sync` permits.
    unsafe { NonNull::dangling().as_ref() }
}

fn run<F, A>(payload: Encoded<'_>, reply: Option<Reply<'_>>) -> Result<Freight, Failure>
where
    F: Callable<A>,
    A: Portable,
    F::Output: Portable,
{
    let args = payload
        .decode::<A>(Part::Argument)
        .map_err(Failure::Decode)?;
    let output = unwind::catch(|| summon::<F>().call(args)).map_err(Failure::Panicked)?;
    let encoded = match reply {
        Some(Reply { frame, limit }) => {
            codec::ship(&output, frame, Part::Result, passage::to_parent(), limit)
                .map_err(Failure::Encode)
        }
        None => Ok(Freight::default()),
    };
    // A destructor that panics spoils neither the reply nor the worker.
    unwind::discard(output);
    encoded
}

impl Entry {
    /// The path of the function.
    pub(crate) fn function_name(&self) -> &'static str {
        (self.function_name)()
    }

    /// The type of the tuple of its arguments.
    pub(crate) fn argument_name(&self) -> &'static str {
        (self.argument_name)()
    }

    /// How another process of this executable finds this entry, or `None` where the entry lies
    /// in another image (a shared library), which that process need not have at the same place.
    pub(crate) fn id(&self) -> Option<FunctionId> {
        let address = std::ptr::from_ref(self).addr();
        let image = image();
        image
            .holds(address, size_of::<Entry>(), false)
            .then(|| FunctionId {
                offset: (address - image.start) as u64,
                hash: self.hash(),
            })
    }

    /// The entry that another process named, or what is wrong with the name.
    pub(crate) fn find(id: FunctionId) -> Result<&'static Entry, String> {
        let image = image();
        let address = usize::try_from(id.offset)
            .ok()
            .and_then(|offset| image.start.checked_add(offset))
            .filter(|address| address % align_of::<Entry>() == 0)
            .filter(|&address| image.holds(address, size_of::<Entry>(), false))
            .ok_or("the function's entry lies outside of the executable")?;
        let entry = std::ptr::with_exposed_provenance::<Entry>(address);
        // SAFETY: the address is aligned and the whole of `[u64; 2]` (the first field, `repr(C)`) lies
        // in a mapped segment of this executable; any bytes are valid integers.
        if unsafe { entry.cast::<[u64; 2]>().read() } != MAGIC {
            return Err("there is no entry at the function's place".into());
        }
        // SAFETY: nothing but a constant made by `entry` holds the magic numbers; constants are never
        // written to and live as long as the program.
        let entry = unsafe { &*entry };
        for code in [
            entry.function_name as usize,
            entry.argument_name as usize,
            entry.run as usize,
        ] {
            if !image.holds(code, 1, true) {
                return Err("the entry at the function's place is damaged".into());
            }
        }
        if entry.hash() != id.hash {
            return Err(format!(
                "the entry at the function's place is that of `{}`",
                entry.function_name()
            ));
        }
        Ok(entry)
    }

    /// Runs the function on encoded arguments and encodes its result for the reply, if there is one; gives
    /// what the encoding has beside its bytes.
    pub(crate) fn run(
        &self,
        payload: Encoded<'_>,
        reply: Option<Reply<'_>>,
    ) -> Result<Freight, Failure> {
        (self.run)(payload, reply)
    }

    fn hash(&self) -> u64 {
        // The keys of `DefaultHasher::new` are fixed, and both sides are one build.
        let mut hasher = DefaultHasher::new();
        self.function_name().hash(&mut hasher);
        (self.argument_name)().hash(&mut hasher);
        hasher.finish()
    }
}

/// Where the executable of this process is mapped.
struct Image {
    start: usize,
    segments: Vec<Segment>,
}

struct Segment {
    start: usize,
    end: usize,
    executable: bool,
}

impl Image {
    fn holds(&self, address: usize, len: usize, executable: bool) -> bool {
        address.checked_add(len).is_some_and(|end| {
            self.segments.iter().any(|segment| {
                segment.start <= address
                    && end <= segment.end
                    && (segment.executable || !executable)
            })
        })
    }
}

/// The image of the executable itself; shared libraries are other images.
fn image() -> &'static Image {
    static IMAGE: OnceLock<Image> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let mut image = Image {
            start: 0,
            segments: Vec::new(),
        };
        let data: *mut libc::c_void = std::ptr::from_mut(&mut image).cast();
        // SAFETY: the callback has the required signature and does not unwind; `data` points to `image`,
        // which outlives the call and is not otherwise used during it.
        unsafe { libc::dl_iterate_phdr(Some(first_image), data) };
        image
    })
}

/// Fills in the [`Image`] behind `data` from the first image listed, which is the executable.
///
/// # Safety
///
/// `info` must be what `dl_iterate_phdr` gives, and `data` an `Image` that nobody else uses.
unsafe extern "C" fn first_image(
    info: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    data: *mut libc::c_void,
) -> libc::c_int {
    // SAFETY: `dl_iterate_phdr` hands over a valid description and the `data` it was given, which
    // `image` says is an `Image` that nobody else uses now.
    let (info, image) = unsafe { (&*info, &mut *data.cast::<Image>()) };
    image.start = info.dlpi_addr as usize;
    for i in 0..usize::from(info.dlpi_phnum) {
        // SAFETY: `dlpi_phdr` points to `dlpi_phnum` program headers.
        let header = unsafe { &*info.dlpi_phdr.add(i) };
        if header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_R != 0 {
            let start = image.start + header.p_vaddr as usize;
            image.segments.push(Segment {
                start,
                end: start + header.p_memsz as usize,
                executable: header.p_flags & libc::PF_X != 0,
            });
        }
    }
    1 // Stop after the first.
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::passage::{Luggage, Reach};

    fn double(x: u32) -> u32 {
        x * 2
    }

    fn entry_of<F: Callable<(u32,), Output = u32>>(_: F) -> &'static Entry {
        entry::<F, (u32,)>()
    }

    #[test]
    fn an_entry_is_found_by_its_id_and_runs() {
        let found = Entry::find(entry_of(double).id().unwrap()).unwrap();
        let (mut args, mut reply) = (Vec::new(), Vec::new());
        let mut none = Luggage::default();
        codec::encode(
            &(21u32,),
            &mut args,
            Part::Argument,
            Reach::Beyond,
            &mut none,
        )
        .unwrap();
        let frame = &mut reply;
        let limit = usize::MAX;
        found
            .run(Encoded::Bytes(&args), Some(Reply { frame, limit }))
            .unwrap();
        assert_eq!(codec::decode::<u32>(&reply, Part::Result).unwrap(), 42);
    }

    #[test]
    fn closures_of_one_function_have_entries_of_their_own() {
        let (a, b) = (entry_of(|x| x + 1), entry_of(|x| x + 2));
        assert_ne!(a.id().unwrap().offset, b.id().unwrap().offset);
    }

    #[test]
    fn no_other_place_passes_for_an_entry() {
        let id = entry_of(double).id().unwrap();
        for offset in [
            0,
            8,
            id.offset + 8,
            id.offset - 8,
            id.offset + 4,
            1 << 40,
            u64::MAX,
        ] {
            assert!(Entry::find(FunctionId { offset, ..id }).is_err());
        }
        assert!(
            Entry::find(FunctionId {
                hash: id.hash ^ 1,
                ..id
            })
            .is_err()
        );
    }

    proptest::proptest! {
        #[test]
        fn no_name_leads_astray(offset: u64, near: i16, hash: u64) {
            let id = entry_of(double).id().unwrap();
            let near = id.offset.wrapping_add_signed(near.into());
            for offset in [offset, offset >> 40, near] {
                proptest::prop_assume!(offset != id.offset);
                for id in [FunctionId { offset, ..id }, FunctionId { offset, hash }] {
                    proptest::prop_assert!(Entry::find(id).is_err());
                }
            }
        }
    }

    #[test]
    fn what_lies_outside_of_the_executable_has_no_id() {
        let elsewhere = Box::new(Entry {
            magic: MAGIC,
            ..*entry_of(double)
        });
        assert_eq!(elsewhere.id(), None);
    }
}
