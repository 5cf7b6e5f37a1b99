use proptest::prelude::*;
use serde_bytes::ByteBuf;

use super::*;
use crate::{
    arena::passage::Reach,
    codec::{self, Encoded},
    error::Part,
};

static_assertions::assert_impl_all!(Extent: Send, Sync);

fn filled(bytes: &[u8]) -> Extent {
    let mut extent = Extent::claim(bytes.len().max(1)).unwrap();
    extent.writer().write_all(bytes).unwrap();
    extent
}

#[test]
fn what_is_written_is_read() {
    let bytes: Vec<u8> = (0..200_000u32).map(|n| (n % 251) as u8).collect();
    let extent = filled(&bytes);
    assert_eq!(extent.len(), bytes.len());
    let mut read = Vec::new();
    extent.reader().read_to_end(&mut read).unwrap();
    assert!(read == bytes);
    let mut reader = extent.reader();
    assert!(reader.take_bytes(100_000).unwrap() == bytes[..100_000]);
    assert!(reader.take_bytes(100_001).is_err());
    assert!(reader.take_bytes(usize::MAX).is_err());
    assert!(reader.take_bytes(100_000).unwrap() == bytes[100_000..]);
    assert!(reader.read_exact(&mut [0]).is_err());
    assert_eq!(reader.read(&mut [0]).unwrap(), 0);
}

#[test]
fn nothing_is_written_behind_the_end() {
    let mut extent = Extent::claim(10).unwrap();
    let mut writer = extent.writer();
    writer.write_all(&[1; BLOCK]).unwrap();
    assert_eq!(
        writer.write_all(&[1]).unwrap_err().kind(),
        ErrorKind::WriteZero
    );
    assert_eq!(extent.len(), BLOCK);
}

#[test]
fn an_extent_is_taken_once() {
    let name = {
        let extent = filled(&[7; 100]);
        let name = extent.name();
        extent.leave();
        name
    };
    // A run passes from one process to the next; here it is the same one.
    let me = crate::arena::me();
    let taken = Extent::take(name, me).unwrap();
    assert_eq!((taken.len(), taken.name()), (100, name));
    drop(taken);
    assert!(Extent::take(name, me).is_none());
}

proptest! {
    #[test]
    fn no_name_leads_astray(first: u32, near: i8, len: u64, claim: u64, owner: u16) {
        let extent = filled(&[7; 3 * BLOCK]);
        let name = extent.name();
        let near_len = name.len.wrapping_add_signed(near.into());
        for first in [first, first >> 20, name.first.wrapping_add_signed(near.into())] {
            for len in [len, len >> 40, near_len] {
                prop_assume!(claim != name.claim);
                let forged = Extent::take(ExtentName { first, len, claim }, owner);
                prop_assert!(forged.is_none());
                let claim = name.claim;
                let stolen = Extent::take(ExtentName { first, len, claim }, owner | 1 << 15);
                prop_assert!(stolen.is_none());
            }
        }
        // It is still there.
        prop_assert_eq!(extent.reader().take_bytes(3 * BLOCK).unwrap(), vec![7; 3 * BLOCK]);
    }

    #[test]
    fn noise_is_a_value_or_an_error(
        mut noise in proptest::collection::vec(any::<u8>(), 0..300),
        len in proptest::option::of(0u64..400),
    ) {
        if let Some(len) = len {
            noise.splice(0..0, len.to_le_bytes());
        }
        fn try_as<T: serde::de::DeserializeOwned>(noise: &[u8]) {
            let _ = Encoded::Extent(filled(noise)).decode::<T>(Part::Result);
        }
        try_as::<Vec<u8>>(&noise);
        try_as::<ByteBuf>(&noise);
        try_as::<String>(&noise);
        try_as::<Vec<String>>(&noise);
        try_as::<Vec<(u64, ByteBuf)>>(&noise);
        try_as::<Option<Box<[f64]>>>(&noise);
        try_as::<(char, std::collections::HashMap<String, u8>)>(&noise);
    }

    #[test]
    fn both_ways_carry_the_same(values: Vec<(String, Vec<u16>)>, len in LARGE - 99..LARGE + 9) {
        type Value = (Vec<(String, Vec<u16>)>, ByteBuf, char);

        let value = (values, ByteBuf::from(vec![7; len]), 'x');
        let mut frame = vec![1, 2, 3];
        let small = codec::ship(&value, &mut frame, Part::Result, Reach::Beyond, usize::MAX);
        prop_assert!(small.unwrap().extent.is_none());
        let mut header = vec![1, 2, 3];
        let large = codec::ship(&value, &mut header, Part::Result, Reach::Tree, usize::MAX);
        match large.unwrap().extent {
            Some(extent) => {
                prop_assert_eq!(&header[..], &frame[..3]);
                prop_assert!(extent.reader().take_bytes(extent.len()).unwrap() == frame[3..]);
                prop_assert!(extent.len() >= LARGE);
                let decoded = Encoded::Extent(extent).decode::<Value>(Part::Result);
                prop_assert!(decoded.is_ok_and(|decoded| decoded == value));
            }
            None => prop_assert!(header == frame && frame.len() - 3 < LARGE),
        }
    }
}
