//! Counting and sorting by context with the registers of AVX-512, for words of two and four bytes.
//!
//! Few contexts have nearly all of a block's words. A register of words is compared with each of these in turn, and what
//! is equal is pressed together and written by one store: a context's next place is read once a register instead of
//! once a word, and no word waits for the one before. The rare contexts go word by word.

use crate::words::{Look, Table, Trend, Word};

/// Contexts that a register is compared with.
const COMMON_MAX: usize = 16;
/// A context that has fewer words than one in so many is not common: comparing costs more than it saves.
const COMMON_ONE_IN: u64 = 256;

/// The contexts that most words have.
pub struct Common {
    values: [u8; COMMON_MAX],
    count: usize,
}

impl Common {
    /// Choose by how many words each context has.
    pub fn of(counts: &[u64; 256]) -> Self {
        let mut left = *counts;
        let total: u64 = counts.iter().sum();
        let mut common = Common { values: [0; COMMON_MAX], count: 0 };
        for value in &mut common.values {
            let (most, many) = left.iter().enumerate().max_by_key(|(_, many)| **many).unwrap_or((0, &0));
            if *many == 0 || *many * COMMON_ONE_IN < total {
                break;
            }
            *value = most as u8;
            left[most] = 0;
            common.count += 1;
        }
        common
    }

    #[cfg(target_arch = "x86_64")]
    fn values(&self) -> &[u8] {
        &self.values[..self.count]
    }
}

/// Proof that this machine has the registers.
#[derive(Clone, Copy)]
pub struct Lanes(());

#[cfg(not(target_arch = "x86_64"))]
impl Lanes {
    pub fn here<W: Word>() -> Option<Self> {
        None
    }
    pub fn count<W: Word>(self, _: &[u8], _: Look, _: &Common, _: &mut Table) {}
    pub fn sort<W: Word>(self, _: (&[u8], &[u8]), _: Look, _: &Common, _: Option<Trend>, _: &mut Table, _: &mut [W]) {}
    pub fn unsort<W: Word>(self, _: &[W], _: (&[u8], &mut [u8]), _: Look, _: &Common, _: Option<Trend>, _: &mut Table) {
    }
}

#[cfg(target_arch = "x86_64")]
impl Lanes {
    /// Give the proof, where the machine has them and words of this width can be taken in them.
    pub fn here<W: Word>() -> Option<Self> {
        let there = matches!(W::BYTES, 2 | 4)
            && crate::wide::widest() >= 512
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vbmi2")
            && is_x86_feature_detected!("popcnt")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2");
        there.then_some(Lanes(()))
    }

    /// Count the words of each context into a table.
    pub fn count<W: Word>(self, base: &[u8], look: Look, common: &Common, table: &mut Table) {
        // SAFETY: there is no `Lanes` but where the machine has all that these are compiled for; so below.
        match W::BYTES {
            2 => unsafe { two::count(base, look, common, table) },
            _ => unsafe { four::count(base, look, common, table) },
        }
    }

    /// Write the zigzag differences of (raw, base) to the next places of their contexts.
    pub fn sort<W: Word>(
        self,
        (raw, base): (&[u8], &[u8]),
        look: Look,
        common: &Common,
        trend: Option<Trend>,
        table: &mut Table,
        ordered: &mut [W],
    ) {
        let ordered = W::bytes_mut(ordered);
        // They are words of that width already: all of them are in the middle part.
        match W::BYTES {
            2 => unsafe { two::sort(raw, base, look, common, trend, table, ordered.align_to_mut().1) },
            _ => unsafe { four::sort(raw, base, look, common, trend, table, ordered.align_to_mut().1) },
        }
    }

    /// Undo `sort`: take the differences from the next places of their contexts and write raw words.
    pub fn unsort<W: Word>(
        self,
        ordered: &[W],
        (base, raw): (&[u8], &mut [u8]),
        look: Look,
        common: &Common,
        trend: Option<Trend>,
        table: &mut Table,
    ) {
        let ordered = W::bytes(ordered);
        match W::BYTES {
            2 => unsafe { two::unsort(ordered.align_to().1, base, raw, look, common, trend, table) },
            _ => unsafe { four::unsort(ordered.align_to().1, base, raw, look, common, trend, table) },
        }
    }
}

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// The lowest bytes of the words of two registers.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn bytes_of_two([low, high]: [__m512i; 2]) -> __m512i {
    let (low, high) = (_mm512_cvtepi16_epi8(low), _mm512_cvtepi16_epi8(high));
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
}

/// The lowest bytes of the words of four registers.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn bytes_of_four([first, second, third, fourth]: [__m512i; 4]) -> __m512i {
    let low = _mm512_castsi128_si512(_mm512_cvtepi32_epi8(first));
    let low = _mm512_inserti32x4::<1>(low, _mm512_cvtepi32_epi8(second));
    let low = _mm512_inserti32x4::<2>(low, _mm512_cvtepi32_epi8(third));
    _mm512_inserti32x4::<3>(low, _mm512_cvtepi32_epi8(fourth))
}

/// The same for two widths, which have intrinsics of different names.
#[cfg(target_arch = "x86_64")]
macro_rules! lanes {
    ($module:ident, $word:ty, $mask:ty, $set:ident, $equal:ident, $right:ident, $left:ident, $sign:ident,
     $add:ident, $sub:ident, $press:ident, $spread:ident, $load:ident, $store:ident, $narrow:path) => {
        mod $module {
            use super::{Common, COMMON_MAX};
            use crate::words::{next_place, Look, Table, Trend, Word};
            use std::arch::x86_64::*;

            const BYTES: usize = size_of::<$word>();
            const LANES: usize = 64 / BYTES;
            const SIGN: u32 = 8 * BYTES as u32 - 1;

            /// The first bytes of a register, so many; zeros behind them.
            #[inline]
            #[target_feature(enable = "avx512f,avx512bw,bmi2")]
            fn load(bytes: &[u8]) -> __m512i {
                let some = _bzhi_u64(u64::MAX, bytes.len().min(64) as u32);
                // SAFETY: nothing is read but where the mask has ones, which is inside of the slice.
                unsafe { _mm512_maskz_loadu_epi8(some, bytes.as_ptr().cast()) }
            }

            /// Write the first bytes of a register, as many as there is room for.
            #[inline]
            #[target_feature(enable = "avx512f,avx512bw,bmi2")]
            fn store(register: __m512i, bytes: &mut [u8]) {
                let some = _bzhi_u64(u64::MAX, bytes.len().min(64) as u32);
                // SAFETY: as above.
                unsafe { _mm512_mask_storeu_epi8(bytes.as_mut_ptr().cast(), some, register) }
            }

            /// Write the first words of a register to a place, if all of them lie inside.
            #[inline]
            #[target_feature(enable = "avx512f,avx512bw,bmi2")]
            fn put(words: &mut [$word], place: usize, many: u32, register: __m512i) {
                if place + many as usize <= words.len() {
                    let some = _bzhi_u32(u32::MAX, many) as $mask;
                    // SAFETY: nothing is written but where the mask has ones, which is inside, as was just asked.
                    unsafe { $store(words.as_mut_ptr().add(place).cast(), some, register) }
                }
            }

            /// Read words from a place, zeros where not all of them lie inside.
            #[inline]
            #[target_feature(enable = "avx512f,avx512bw,bmi2")]
            fn take(words: &[$word], place: usize, many: u32) -> __m512i {
                if place + many as usize > words.len() {
                    return _mm512_setzero_si512();
                }
                let some = _bzhi_u32(u32::MAX, many) as $mask;
                // SAFETY: nothing is read but where the mask has ones, which is inside, as was just asked.
                unsafe { $load(some, words.as_ptr().add(place).cast()) }
            }

            #[inline]
            #[target_feature(enable = "avx512f,avx512bw,bmi2")]
            fn words(register: __m512i) -> [$word; LANES] {
                let mut words = [0; LANES];
                store(register, <$word>::bytes_mut(&mut words));
                words
            }

            /// The words that a register of so many bytes holds, one bit each.
            fn present(bytes: usize) -> $mask {
                (<$mask>::MAX) >> (LANES - (bytes / BYTES).clamp(1, LANES))
            }

            /// What the contexts of words are compared with.
            struct Lookout {
                shift: __m128i,
                mask: __m512i,
                values: [__m512i; COMMON_MAX],
                count: usize,
            }

            impl Lookout {
                #[inline]
                #[target_feature(enable = "avx512f,avx512bw")]
                fn new(look: Look, common: &Common) -> Self {
                    let mut values = [_mm512_setzero_si512(); COMMON_MAX];
                    for (register, value) in values.iter_mut().zip(common.values()) {
                        *register = $set(i16::from(*value).into());
                    }
                    Lookout {
                        shift: _mm_cvtsi32_si128(look.shift as i32),
                        mask: $set(i16::from(look.mask).into()),
                        values,
                        count: common.values().len(),
                    }
                }

                #[inline]
                #[target_feature(enable = "avx512f,avx512bw")]
                fn contexts(&self, base: __m512i) -> __m512i {
                    _mm512_and_si512($right(base, self.shift), self.mask)
                }

                fn values(&self) -> &[__m512i] {
                    &self.values[..self.count]
                }
            }

            /// The tables' entries of the common contexts, while a row or run is gone through.
            #[inline]
            fn taken_out(common: &Common, table: &Table) -> [u32; COMMON_MAX] {
                let mut places = [0; COMMON_MAX];
                for (place, value) in places.iter_mut().zip(common.values()) {
                    *place = table[usize::from(*value)];
                }
                places
            }

            #[inline]
            fn put_back(common: &Common, places: &[u32; COMMON_MAX], table: &mut Table) {
                for (place, value) in places.iter().zip(common.values()) {
                    table[usize::from(*value)] = *place;
                }
            }

            /// The places that a rare word's bit stands for, from the lowest up.
            #[inline]
            fn each(mut bits: u64, mut then: impl FnMut(usize)) {
                while bits != 0 {
                    then(bits.trailing_zeros() as usize);
                    bits &= bits - 1;
                }
            }

            #[inline]
            #[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,bmi1,bmi2,popcnt")]
            fn expected(trend: Trend, base: __m512i) -> __m512i {
                let mut moved = words(base);
                for word in &mut moved {
                    *word = trend.expected(*word);
                }
                load(<$word>::bytes(&moved))
            }

            #[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,bmi1,bmi2,popcnt")]
            pub fn count(base: &[u8], look: Look, common: &Common, table: &mut Table) {
                let lookout = Lookout::new(look, common);
                let mut values = [_mm512_setzero_si512(); COMMON_MAX];
                for (register, value) in values.iter_mut().zip(common.values()) {
                    *register = _mm512_set1_epi8(*value as i8);
                }
                let mut found = taken_out(common, table);
                // A context is a byte: those of 64 words fit into one register.
                for strip in base.chunks(64 * BYTES) {
                    let mut contexts = [_mm512_setzero_si512(); BYTES];
                    for (contexts, piece) in contexts.iter_mut().zip(strip.chunks(64)) {
                        *contexts = lookout.contexts(load(piece));
                    }
                    let contexts = $narrow(contexts);
                    let here = _bzhi_u64(u64::MAX, (strip.len() / BYTES) as u32);
                    let mut rare = here;
                    for (found, value) in found.iter_mut().zip(&values[..lookout.count]) {
                        let hits = _mm512_mask_cmpeq_epi8_mask(here, contexts, *value);
                        *found += hits.count_ones();
                        rare &= !hits;
                    }
                    if rare != 0 {
                        let mut bytes = [0; 64];
                        store(contexts, &mut bytes);
                        each(rare, |lane| table[usize::from(bytes[lane])] += 1);
                    }
                }
                put_back(common, &found, table);
            }

            #[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,bmi1,bmi2,popcnt")]
            pub fn sort(
                raw: &[u8],
                base: &[u8],
                look: Look,
                common: &Common,
                trend: Option<Trend>,
                table: &mut Table,
                ordered: &mut [$word],
            ) {
                let lookout = Lookout::new(look, common);
                let mut places = taken_out(common, table);
                for (raw, strip) in raw.chunks(64).zip(base.chunks(64)) {
                    let base = load(strip);
                    let mut moved = $sub(load(raw), base);
                    if let Some(trend) = trend {
                        moved = $sub(moved, expected(trend, base));
                    }
                    let moved = _mm512_xor_si512($left::<1>(moved), $sign::<SIGN>(moved));
                    let contexts = lookout.contexts(base);
                    let here = present(strip.len());
                    let mut rare = here;
                    for (next, value) in places.iter_mut().zip(lookout.values()) {
                        let hits = $equal(here, contexts, *value);
                        put(ordered, *next as usize, hits.count_ones(), $press(hits, moved));
                        *next = next.wrapping_add(hits.count_ones());
                        rare &= !hits;
                    }
                    if rare != 0 {
                        let (contexts, moved) = (words(contexts), words(moved));
                        each(rare.into(), |lane| {
                            let place = next_place(table, contexts[lane] as u8);
                            if let Some(slot) = ordered.get_mut(place) {
                                *slot = moved[lane];
                            }
                        });
                    }
                }
                put_back(common, &places, table);
            }

            #[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,bmi1,bmi2,popcnt")]
            pub fn unsort(
                ordered: &[$word],
                base: &[u8],
                raw: &mut [u8],
                look: Look,
                common: &Common,
                trend: Option<Trend>,
                table: &mut Table,
            ) {
                let lookout = Lookout::new(look, common);
                let mut places = taken_out(common, table);
                for (raw, strip) in raw.chunks_mut(64).zip(base.chunks(64)) {
                    let base = load(strip);
                    let contexts = lookout.contexts(base);
                    let here = present(strip.len());
                    let mut rare = here;
                    let mut moved = _mm512_setzero_si512();
                    for (next, value) in places.iter_mut().zip(lookout.values()) {
                        let hits = $equal(here, contexts, *value);
                        let words = take(ordered, *next as usize, hits.count_ones());
                        moved = _mm512_or_si512(moved, $spread(hits, words));
                        *next = next.wrapping_add(hits.count_ones());
                        rare &= !hits;
                    }
                    if rare != 0 {
                        let contexts = words(contexts);
                        let mut few = words(moved);
                        each(rare.into(), |lane| {
                            let place = next_place(table, contexts[lane] as u8);
                            few[lane] = ordered.get(place).copied().unwrap_or_default();
                        });
                        moved = load(<$word>::bytes(&few));
                    }
                    let sign = $sub(_mm512_setzero_si512(), _mm512_and_si512(moved, $set(1)));
                    let mut moved = _mm512_xor_si512($right(moved, _mm_cvtsi32_si128(1)), sign);
                    if let Some(trend) = trend {
                        moved = $add(moved, expected(trend, base));
                    }
                    store($add(base, moved), raw);
                }
                put_back(common, &places, table);
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
lanes!(
    two,
    u16,
    u32,
    _mm512_set1_epi16,
    _mm512_mask_cmpeq_epi16_mask,
    _mm512_srl_epi16,
    _mm512_slli_epi16,
    _mm512_srai_epi16,
    _mm512_add_epi16,
    _mm512_sub_epi16,
    _mm512_maskz_compress_epi16,
    _mm512_maskz_expand_epi16,
    _mm512_maskz_loadu_epi16,
    _mm512_mask_storeu_epi16,
    super::bytes_of_two
);
#[cfg(target_arch = "x86_64")]
lanes!(
    four,
    u32,
    u16,
    _mm512_set1_epi32,
    _mm512_mask_cmpeq_epi32_mask,
    _mm512_srl_epi32,
    _mm512_slli_epi32,
    _mm512_srai_epi32,
    _mm512_add_epi32,
    _mm512_sub_epi32,
    _mm512_maskz_compress_epi32,
    _mm512_maskz_expand_epi32,
    _mm512_maskz_loadu_epi32,
    _mm512_mask_storeu_epi32,
    super::bytes_of_four
);
