//! The transforms of `words`, with the machine's wide registers where it has them: each is compiled twice.

use crate::floats::{self, Float};
use crate::words::{self, Shape, Trend, Word, Wrong};
use std::sync::atomic::{AtomicU32, Ordering};

/// Bits of the widest registers that are used where the machine has them: 512, 256, or 0 for what every machine has.
static WIDEST: AtomicU32 = AtomicU32::new(512);

pub fn widest() -> u32 {
    WIDEST.load(Ordering::Relaxed)
}

/// Use no wider ones from now on, for tests of what other machines do; give back what was the limit before.
pub fn narrow(bits: u32) -> u32 {
    WIDEST.swap(bits, Ordering::Relaxed)
}

macro_rules! wide {
    ($($module:ident::$name:ident $(<$word:ident: $kind:ident>)? ($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
        $(pub fn $name$(<$word: $kind>)?($($argument: $type),*) -> $result {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
                fn widely$(<$word: $kind>)?($($argument: $type),*) -> $result {
                    $module::$name$(::<$word>)?($($argument),*)
                }
                if widest() >= 256
                    && is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("bmi1")
                    && is_x86_feature_detected!("bmi2")
                    && is_x86_feature_detected!("lzcnt")
                    && is_x86_feature_detected!("popcnt")
                {
                    // SAFETY: the machine has all that this is compiled for, as it has just said.
                    return unsafe { widely$(::<$word>)?($($argument),*) };
                }
            }
            $module::$name$(::<$word>)?($($argument),*)
        })*
    };
}

wide! {
    words::split<W: Word>(raw: &[u8], planes: &mut [&mut [u8]]) -> ();
    words::join<W: Word>(planes: &[&[u8]], raw: &mut [u8]) -> ();
    words::pair(plane: &[u8], top: u8, pairs: &mut [u8]) -> Vec<u8>;
    words::unpair(pairs: &[u8], far: &[u8], top: u8, plane: &mut [u8]) -> Result<(), Wrong>;
    words::join_pairs<W: Word>(
        pairs: &[u8], far: &mut &[u8], top: u8, others: &[&[u8]], raw: &mut [u8]
    ) -> Result<(), Wrong>;
    words::survey<W: Word>(
        raw: &[u8], base: &[u8], columns: usize, step: usize, activity: &mut [u32], state: &mut [u8]
    ) -> ();
    words::count<W: Word>(base: &[u8], shape: &Shape, counts: &mut [u32]) -> ();
    words::sort<W: Word>(
        raw: &[u8], base: &[u8], shape: &Shape, counts: &[u32], trend: Option<Trend>, ordered: &mut [W]
    ) -> Result<(), Wrong>;
    words::unsort<W: Word>(
        ordered: &[W], base: &[u8], shape: &Shape, counts: &[u32], trend: Option<Trend>, raw: &mut [u8]
    ) -> Result<(), Wrong>;
    words::choose_modes<W: Word>(ordered: &[W], lengths: &[u32], plogp: &[i64], modes: &mut [u8]) -> Result<(), Wrong>;
    words::pack<W: Word>(
        ordered: &[W], lengths: &[u32], modes: &[u8], symbols: &mut [u8], low: &mut [u8]
    ) -> Result<(Vec<u8>, Vec<u8>), Wrong>;
    words::unpack<W: Word>(
        symbols: &[u8], low: &[u8], escapes: &[u8], far: &[u8], lengths: &[u32], modes: &[u8], ordered: &mut [W]
    ) -> Result<(), Wrong>;
    floats::rounded<W: Float>(words: &[u8], product: &[f64], out: &mut [u8]) -> ();
    floats::difference<W: Float>(after: &[u8], before: &[u8], out: &mut [W::Wide]) -> f64;
}
