//! What the coders of weights do to words. `understudy/coding/transforms.py` says the same in numpy, byte for byte.
//!
//! Every index is checked, and what does not fit is an error; words are looked at as bytes and no more than that.

use crate::lanes::{Common, Lanes};
use std::ops::Range;

/// What is wrong with what was handed in.
pub type Wrong = &'static str;

/// A little-endian word of 1, 2, 4 or 8 bytes.
pub trait Word: Copy + Default + Send + Sync + PartialEq + 'static {
    const BYTES: usize;
    fn read(bytes: &[u8]) -> Self;
    fn write(self, bytes: &mut [u8]);
    fn sub(self, other: Self) -> Self;
    fn add(self, other: Self) -> Self;
    fn zigzag(self) -> Self;
    fn unzigzag(self) -> Self;
    fn grew(self) -> bool;
    fn length(self) -> u32;
    fn wide(self) -> u64;
    fn low_byte(self) -> u8;
    fn shifted(self, bits: u32) -> Self;
    fn at_most(self, limit: Self) -> Self;
    fn narrow(value: u64) -> Self;
    fn turned(self) -> Self;
    fn unturned(self) -> Self;
    /// Words as the bytes that they lie in.
    fn bytes(words: &[Self]) -> &[u8];
    fn bytes_mut(words: &mut [Self]) -> &mut [u8];
}

macro_rules! word {
    ($unsigned:ty, $signed:ty) => {
        impl Word for $unsigned {
            const BYTES: usize = std::mem::size_of::<$unsigned>();
            #[inline(always)]
            fn read(bytes: &[u8]) -> Self {
                let mut word = [0u8; std::mem::size_of::<$unsigned>()];
                word.copy_from_slice(bytes);
                <$unsigned>::from_le_bytes(word)
            }
            #[inline(always)]
            fn write(self, bytes: &mut [u8]) {
                bytes.copy_from_slice(&self.to_le_bytes());
            }
            #[inline(always)]
            fn sub(self, other: Self) -> Self {
                self.wrapping_sub(other)
            }
            #[inline(always)]
            fn add(self, other: Self) -> Self {
                self.wrapping_add(other)
            }
            #[inline(always)]
            fn zigzag(self) -> Self {
                (self << 1) ^ (((self as $signed) >> (<$unsigned>::BITS - 1)) as $unsigned)
            }
            #[inline(always)]
            fn unzigzag(self) -> Self {
                (self >> 1) ^ (0 as $unsigned).wrapping_sub(self & 1)
            }
            #[inline(always)]
            fn grew(self) -> bool {
                (self as $signed) > 0
            }
            #[inline(always)]
            fn length(self) -> u32 {
                <$unsigned>::BITS - self.leading_zeros()
            }
            #[inline(always)]
            fn wide(self) -> u64 {
                self as u64
            }
            #[inline(always)]
            fn low_byte(self) -> u8 {
                self as u8
            }
            #[inline(always)]
            fn shifted(self, bits: u32) -> Self {
                self >> bits
            }
            #[inline(always)]
            fn at_most(self, limit: Self) -> Self {
                self.min(limit)
            }
            #[inline(always)]
            fn narrow(value: u64) -> Self {
                value as $unsigned
            }
            #[inline(always)]
            fn turned(self) -> Self {
                self.rotate_left(1)
            }
            #[inline(always)]
            fn unturned(self) -> Self {
                self.rotate_right(1)
            }
            #[inline(always)]
            fn bytes(words: &[Self]) -> &[u8] {
                // SAFETY: integers are bytes without gaps, and bytes lie anywhere.
                unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), size_of_val(words)) }
            }
            #[inline(always)]
            fn bytes_mut(words: &mut [Self]) -> &mut [u8] {
                // SAFETY: as above, and any bytes are an integer.
                unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), size_of_val(words)) }
            }
        }
    };
}
word!(u8, i8);
word!(u16, i16);
word!(u32, i32);
word!(u64, i64);

/// How many pieces a block is sorted in at once: one position table waits for the other's store.
pub const RUNS: usize = 4;
const SAMPLE_WORDS: usize = 2048;
/// Cells of a histogram: differences 0 to 15 each, then by their bit length, 5 to 64.
const EXACT: usize = 16;
const BINS: usize = 76;
/// (Bits of a symbol, low bits split off beyond the fewest) that are weighed; the first of the cheapest is taken.
const CANDIDATES: [(usize, usize); 5] = [(1, 0), (2, 0), (4, 0), (4, 1), (8, 0)];
const UNIT_BITS: u32 = 12;
const BYTE_PRICE: i64 = (1 << UNIT_BITS) / 20;
const ESCAPE_PRICE: i64 = (1 << UNIT_BITS) / 2;

/// Where the words of a block lie, and what their context is.
#[derive(Clone, Copy)]
pub struct Shape<'a> {
    pub shift: u32,
    pub bits: u32,
    /// Words in a row; 0 where rows have no kinds.
    pub columns: usize,
    pub kinds: Option<&'a [u8]>,
    pub kind_count: usize,
}

impl Shape<'_> {
    pub fn contexts(&self) -> usize {
        self.kind_count << self.bits
    }

    /// The bits of a context, as many as there are.
    fn mask(&self) -> u8 {
        ((1u16 << self.bits) - 1) as u8
    }

    /// Whether the shape fits so many words of so many bytes.
    pub fn check(&self, words: usize, bytes: usize) -> Result<(), Wrong> {
        if self.bits > 8
            || (self.shift + self.bits) as usize > 8 * bytes
            || self.kind_count == 0
            || self.kind_count > 256
        {
            return Err("the context does not lie in the word");
        }
        match self.kinds {
            None if self.kind_count != 1 => Err("kinds, but no rows"),
            None => Ok(()),
            Some(_) if self.columns == 0 => Err("rows of no words"),
            Some(kinds) if kinds.len() * self.columns != words => Err("the rows are not all of the words"),
            Some(kinds) if kinds.iter().any(|kind| *kind as usize >= self.kind_count) => {
                Err("a kind that there is not")
            }
            Some(_) => Ok(()),
        }
    }

    fn look(&self) -> Look {
        Look { shift: self.shift, mask: self.mask() }
    }

    /// What has one kind and lies in one run, in order: (run, kind, its bytes). The rows, or the whole runs.
    fn units<W: Word>(&self, words: usize) -> impl Iterator<Item = (usize, usize, Range<usize>)> + '_ {
        let edges = self.edges(words);
        let bytes = self.kinds.map_or(1, |_| self.columns) * W::BYTES;
        (0..RUNS).flat_map(move |run| {
            let (start, end) = (edges[run], edges[run + 1]);
            let rows = self.kinds.map(|kinds| {
                let kinds = kinds[start..end].iter().enumerate();
                kinds
                    .map(move |(row, kind)| (run, usize::from(*kind), (start + row) * bytes..(start + row + 1) * bytes))
            });
            let whole = self.kinds.is_none().then_some((run, 0, start * bytes..end * bytes));
            rows.into_iter().flatten().chain(whole)
        })
    }

    /// The units (rows, or words) of each run: all have as many but the last ones.
    fn edges(&self, words: usize) -> [usize; RUNS + 1] {
        let units = self.kinds.map_or(words, <[u8]>::len);
        let each = units.div_ceil(RUNS);
        let mut edges = [0; RUNS + 1];
        for (run, edge) in edges.iter_mut().enumerate() {
            *edge = (run * each).min(units);
        }
        edges
    }
}

/// What words of one kind of row are expected to have moved by.
#[derive(Clone, Copy)]
pub struct Trend<'a> {
    pub kind: u8,
    pub mantissa: u32,
    pub drop: u32,
    pub slope: i64,
    pub entries: &'a [i32],
}

impl Trend<'_> {
    pub fn check(&self) -> Result<(), Wrong> {
        let fits = self.mantissa <= 23 && self.drop <= self.mantissa && self.slope.unsigned_abs() <= 1 << 31;
        if fits && self.entries.len() == 1 << (self.mantissa - self.drop) {
            Ok(())
        } else {
            Err("the trend contradicts itself")
        }
    }

    #[inline(always)]
    pub fn expected<W: Word>(&self, base: W) -> W {
        let mantissa = base.wide() & ((1 << self.mantissa) - 1);
        let rest = (mantissa & ((1 << self.drop) - 1)) as i64;
        let entry = i64::from(self.entries[(mantissa >> self.drop) as usize]);
        W::narrow((entry + ((self.slope * rest) >> 32)) as u64)
    }
}

/// Byte planes, the highest first, of words turned left by one bit.
#[inline(always)]
pub fn split<W: Word>(raw: &[u8], planes: &mut [&mut [u8]]) {
    match planes {
        [only] => only.copy_from_slice(raw),
        [high, low] => {
            for ((word, high), low) in raw.chunks_exact(W::BYTES).zip(high.iter_mut()).zip(low.iter_mut()) {
                let word = W::read(word).turned().wide();
                *high = (word >> 8) as u8;
                *low = word as u8;
            }
        }
        _ => {
            for (lane, plane) in planes.iter_mut().rev().enumerate() {
                for (word, byte) in raw.chunks_exact(W::BYTES).zip(plane.iter_mut()) {
                    *byte = (W::read(word).turned().wide() >> (8 * lane)) as u8;
                }
            }
        }
    }
}

/// Undo `split`.
#[inline(always)]
pub fn join<W: Word>(planes: &[&[u8]], raw: &mut [u8]) {
    match planes {
        [only] => raw.copy_from_slice(only),
        [high, low] => {
            for ((word, high), low) in raw.chunks_exact_mut(W::BYTES).zip(high.iter()).zip(low.iter()) {
                W::narrow(u64::from(*high) << 8 | u64::from(*low)).unturned().write(word);
            }
        }
        [first, second, third, fourth] => {
            let halves = first.iter().zip(second.iter()).zip(third.iter().zip(fourth.iter()));
            for (word, ((a, b), (c, d))) in raw.chunks_exact_mut(W::BYTES).zip(halves) {
                W::narrow(u64::from(u32::from_be_bytes([*a, *b, *c, *d]))).unturned().write(word);
            }
        }
        _ => {
            for (place, word) in raw.chunks_exact_mut(W::BYTES).enumerate() {
                let value = planes.iter().fold(0u64, |value, plane| value << 8 | u64::from(plane[place]));
                W::narrow(value).unturned().write(word);
            }
        }
    }
}

/// Distances below `top`, two to a byte; those of 15 and more are given back whole.
#[inline(always)]
pub fn pair(plane: &[u8], top: u8, pairs: &mut [u8]) -> Vec<u8> {
    let mut far = Vec::new();
    for (out, two) in pairs.chunks_mut(64).zip(plane.chunks(128)) {
        let mut most = 0;
        for byte in two {
            most = most.max(top.wrapping_sub(*byte));
        }
        if most >= 15 {
            far.extend(two.iter().map(|byte| top.wrapping_sub(*byte)).filter(|distance| *distance >= 15));
        }
        for (out, both) in out.iter_mut().zip(two.chunks_exact(2)) {
            *out = top.wrapping_sub(both[0]).min(15) | top.wrapping_sub(both[1]).min(15) << 4;
        }
        if two.len() % 2 == 1 {
            out[two.len() / 2] = top.wrapping_sub(two[two.len() - 1]).min(15);
        }
    }
    far
}

/// Undo `pair`.
#[inline(always)]
pub fn unpair(pairs: &[u8], far: &[u8], top: u8, plane: &mut [u8]) -> Result<(), Wrong> {
    let mut left = far;
    unpair_part(pairs, &mut left, top, plane)?;
    if left.is_empty() { Ok(()) } else { Err(TOO_MANY_FAR) }
}

pub const TOO_MANY_FAR: Wrong = "too many far bytes";

/// Undo `pair` for a part of a plane that begins at an even byte; `far` is left with those of what follows.
#[inline(always)]
fn unpair_part(pairs: &[u8], far: &mut &[u8], top: u8, plane: &mut [u8]) -> Result<(), Wrong> {
    for (two, packed) in plane.chunks_mut(128).zip(pairs.chunks(64)) {
        // Of one length always, so that all of a stride is done at once.
        let mut bytes = [0u8; 64];
        bytes[..packed.len()].copy_from_slice(packed);
        let mut distances = [0u8; 128];
        for (both, byte) in distances.chunks_exact_mut(2).zip(&bytes) {
            // One into the low byte, one into the high one.
            let wide = u16::from(*byte);
            both.copy_from_slice(&((wide | wide << 4) & 0x0F0F).to_le_bytes());
        }
        let size = two.len();
        if distances[..size].iter().fold(0, |most, distance| (*distance).max(most)) == 15 {
            for distance in distances[..size].iter_mut().filter(|distance| **distance == 15) {
                let (next, rest) = far.split_first().ok_or("too few far bytes")?;
                (*distance, *far) = (*next, rest);
            }
        }
        for distance in &mut distances {
            *distance = top.wrapping_sub(*distance);
        }
        two.copy_from_slice(&distances[..size]);
    }
    Ok(())
}

/// Undo `pair` and `split` at once for a part of the words that begins at an even one: `others` are the planes below
/// that of the pairs.
#[inline(always)]
pub fn join_pairs<W: Word>(
    pairs: &[u8],
    far: &mut &[u8],
    top: u8,
    others: &[&[u8]],
    raw: &mut [u8],
) -> Result<(), Wrong> {
    // The highest bytes of some words: they never leave the nearest cache.
    let mut highest = [0u8; 4096];
    for (part, raw) in raw.chunks_mut(highest.len() * W::BYTES).enumerate() {
        let (start, count) = (part * highest.len(), raw.len() / W::BYTES);
        let end = start + count;
        unpair_part(&pairs[start / 2..end.div_ceil(2)], far, top, &mut highest[..count])?;
        let mut planes: [&[u8]; 8] = [&[]; 8];
        planes[0] = &highest[..count];
        for (plane, other) in planes[1..].iter_mut().zip(others) {
            *plane = &other[start..end];
        }
        join::<W>(&planes[..W::BYTES], raw);
    }
    Ok(())
}

/// How much each row moved, and whether it did, or shrank alone (2, 1, else 0).
#[inline(always)]
pub fn survey<W: Word>(raw: &[u8], base: &[u8], columns: usize, step: usize, activity: &mut [u32], state: &mut [u8]) {
    let rows = raw.chunks_exact(columns * W::BYTES).zip(base.chunks_exact(columns * W::BYTES));
    for ((raw, base), (activity, state)) in rows.zip(activity.iter_mut().zip(state.iter_mut())) {
        let stride = step * W::BYTES;
        *activity = raw
            .chunks(stride)
            .zip(base.chunks(stride))
            .map(|(raw, base)| W::read(&raw[..W::BYTES]).sub(W::read(&base[..W::BYTES])).zigzag().length())
            .sum();
        *state = 2;
        for (raw, base) in raw.chunks(STRIP * W::BYTES).zip(base.chunks(STRIP * W::BYTES)) {
            let (mut grew, mut differs) = (false, false);
            for (raw, base) in raw.chunks_exact(W::BYTES).zip(base.chunks_exact(W::BYTES)) {
                let moved = W::read(raw).sub(W::read(base));
                grew |= moved.grew();
                differs |= moved != W::default();
            }
            if grew {
                *state = 0;
                break;
            }
            if differs {
                *state = 1;
            }
        }
    }
}

/// One counter, or place, for each value that the bits of a context can take: an index of a byte needs no check.
pub type Table = [u32; 256];

/// Bytes that can be cut in two, to be read or to be written.
pub trait Lane: Sized {
    fn cut(self, at: usize) -> (Self, Self);
    fn bytes(&self) -> &[u8];
}
impl Lane for &[u8] {
    #[inline(always)]
    fn cut(self, at: usize) -> (Self, Self) {
        self.split_at(at)
    }
    #[inline(always)]
    fn bytes(&self) -> &[u8] {
        self
    }
}
impl Lane for &mut [u8] {
    #[inline(always)]
    fn cut(self, at: usize) -> (Self, Self) {
        self.split_at_mut(at)
    }
    #[inline(always)]
    fn bytes(&self) -> &[u8] {
        self
    }
}

/// Words that are looked at in one go: what can be done to all at once is done apart from what goes one by one.
const STRIP: usize = 64;

/// How many words of some strips all over a block have each context.
fn sampled<W: Word>(base: &[u8], look: Look) -> [u64; 256] {
    let mut counts = [0; 256];
    let strips = base.chunks(STRIP * W::BYTES);
    let step = (strips.len() * STRIP / SAMPLE_WORDS).max(1);
    for word in strips.step_by(step).flat_map(|strip| strip.chunks_exact(W::BYTES)) {
        counts[usize::from(W::read(word).shifted(look.shift).low_byte() & look.mask)] += 1;
    }
    counts
}

/// How many words each context has, all kinds and runs together.
fn totals(counts: &[u32], shape: &Shape) -> [u64; 256] {
    let mut totals = [0; 256];
    for table in counts.chunks_exact(1 << shape.bits) {
        for (total, count) in totals.iter_mut().zip(table) {
            *total += u64::from(*count);
        }
    }
    totals
}

/// Count the words of each context, for each run apart: `counts` has RUNS tables, one behind the other.
#[inline(always)]
pub fn count<W: Word>(base: &[u8], shape: &Shape, counts: &mut [u32]) {
    let size = shape.contexts();
    if let Some(lanes) = Lanes::here::<W>() {
        let common = Common::of(&sampled::<W>(base, shape.look()));
        let mut tables = vec![vec![[0u32; 256]; shape.kind_count]; RUNS];
        for (run, kind, span) in shape.units::<W>(base.len() / W::BYTES) {
            lanes.count::<W>(&base[span], shape.look(), &common, &mut tables[run][kind]);
        }
        for (counts, table) in counts.chunks_exact_mut(1 << shape.bits).zip(tables.iter().flatten()) {
            counts.copy_from_slice(&table[..1 << shape.bits]);
        }
        return;
    }
    let edges = shape.edges(base.len() / W::BYTES);
    let (shift, mask) = (shape.shift, shape.mask());
    for (run, counts) in counts.chunks_exact_mut(size).enumerate() {
        let mut tables = vec![[[0u32; 256]; 4]; shape.kind_count];
        // Four tables: neighbours often have one exponent, and a count waits for the store of the one before.
        let tally = |tables: &mut [Table; 4], words: &[u8]| {
            for strip in words.chunks(STRIP * W::BYTES) {
                let contexts = contexts_of::<W>(strip, shift, mask);
                let contexts = &contexts[..strip.len() / W::BYTES];
                let mut fours = contexts.chunks_exact(4);
                for four in &mut fours {
                    for (table, context) in tables.iter_mut().zip(four) {
                        table[usize::from(*context)] += 1;
                    }
                }
                for context in fours.remainder() {
                    tables[0][usize::from(*context)] += 1;
                }
            }
        };
        match shape.kinds {
            None => tally(&mut tables[0], &base[edges[run] * W::BYTES..edges[run + 1] * W::BYTES]),
            Some(kinds) => {
                let row_bytes = shape.columns * W::BYTES;
                let rows = base.chunks_exact(row_bytes).zip(kinds);
                for (row, kind) in rows.take(edges[run + 1]).skip(edges[run]) {
                    tally(&mut tables[usize::from(*kind)], row);
                }
            }
        }
        for (counts, tables) in counts.chunks_exact_mut(1 << shape.bits).zip(&tables) {
            for (value, count) in counts.iter_mut().enumerate() {
                *count = tables.iter().map(|table| table[value]).sum();
            }
        }
    }
}

/// Where each run's first word of each context lies: a table for each kind of each run.
fn places(counts: &[u32], shape: &Shape, words: usize) -> Result<Vec<Vec<Table>>, Wrong> {
    let contexts = shape.contexts();
    if counts.len() != RUNS * contexts || words > u32::MAX as usize {
        return Err("the counts are of other contexts");
    }
    let mut places = vec![vec![[0u32; 256]; shape.kind_count]; RUNS];
    let mut place = 0usize;
    for context in 0..contexts {
        for (run, tables) in places.iter_mut().enumerate() {
            tables[context >> shape.bits][context & usize::from(shape.mask())] = place.min(words) as u32;
            place += counts[run * contexts + context] as usize;
        }
    }
    if place == words {
        Ok(places)
    } else {
        Err("the counts are of other words")
    }
}

/// The contexts of a strip of words.
#[inline(always)]
fn contexts_of<W: Word>(base: &[u8], shift: u32, mask: u8) -> [u8; STRIP] {
    let mut contexts = [0u8; STRIP];
    for (context, word) in contexts.iter_mut().zip(base.chunks_exact(W::BYTES)) {
        *context = W::read(word).shifted(shift).low_byte() & mask;
    }
    contexts
}

/// What is done to words on their way between where they lie and their places.
trait Pass<W: Word> {
    type Lane: Lane;
    /// What of a strip goes to the places.
    fn before(&self, raw: &Self::Lane, base: &[u8], trend: Option<Trend>) -> [W; STRIP];
    /// One word and its place.
    fn touch(&mut self, word: &mut W, place: usize);
    /// What came from the places.
    fn after(&self, words: &[W; STRIP], raw: Self::Lane, base: &[u8], trend: Option<Trend>);
}

#[inline(always)]
pub fn next_place(table: &mut Table, context: u8) -> usize {
    let next = &mut table[usize::from(context)];
    let place = *next as usize;
    *next = next.wrapping_add(1);
    place
}

/// Where the context of a word lies in its base.
#[derive(Clone, Copy)]
pub struct Look {
    pub shift: u32,
    pub mask: u8,
}

/// Four rows or runs of one length, in step: none waits for another's table.
#[inline(always)]
fn four<W: Word, P: Pass<W>>(
    pass: &mut P,
    look: Look,
    bases: [&[u8]; RUNS],
    mut raws: [Option<P::Lane>; RUNS],
    trends: [Option<Trend>; RUNS],
    tables: [&mut Table; RUNS],
) {
    let [table0, table1, table2, table3] = tables;
    let length = bases[0].len();
    let mut start = 0;
    while start < length {
        let size = (STRIP * W::BYTES).min(length - start);
        let base = bases.map(|base| &base[start..start + size]);
        let contexts = base.map(|base| contexts_of::<W>(base, look.shift, look.mask));
        let strips = raws.each_mut().map(|raw| cut_lane(raw, size));
        let [Some(raw0), Some(raw1), Some(raw2), Some(raw3)] = strips else { return };
        let mut words = [
            pass.before(&raw0, base[0], trends[0]),
            pass.before(&raw1, base[1], trends[1]),
            pass.before(&raw2, base[2], trends[2]),
            pass.before(&raw3, base[3], trends[3]),
        ];
        let [words0, words1, words2, words3] = &mut words;
        for place in 0..size / W::BYTES {
            pass.touch(&mut words0[place], next_place(table0, contexts[0][place]));
            pass.touch(&mut words1[place], next_place(table1, contexts[1][place]));
            pass.touch(&mut words2[place], next_place(table2, contexts[2][place]));
            pass.touch(&mut words3[place], next_place(table3, contexts[3][place]));
        }
        pass.after(words0, raw0, base[0], trends[0]);
        pass.after(words1, raw1, base[1], trends[1]);
        pass.after(words2, raw2, base[2], trends[2]);
        pass.after(words3, raw3, base[3], trends[3]);
        start += size;
    }
}

/// One row, or what is left of a run.
#[inline(always)]
fn one<W: Word, P: Pass<W>>(
    pass: &mut P,
    look: Look,
    base: &[u8],
    raw: P::Lane,
    trend: Option<Trend>,
    table: &mut Table,
) {
    let mut raw = Some(raw);
    for base in base.chunks(STRIP * W::BYTES) {
        let contexts = contexts_of::<W>(base, look.shift, look.mask);
        let Some(strip) = cut_lane(&mut raw, base.len()) else { return };
        let mut words = pass.before(&strip, base, trend);
        for (word, context) in words.iter_mut().zip(contexts).take(base.len() / W::BYTES) {
            pass.touch(word, next_place(table, context));
        }
        pass.after(&words, strip, base, trend);
    }
}

/// Take every word of a block to or from its place.
#[inline(always)]
fn walk<W: Word, P: Pass<W>>(
    pass: &mut P,
    base: &[u8],
    raw: P::Lane,
    shape: &Shape,
    mut places: Vec<Vec<Table>>,
    trend: Option<Trend>,
) {
    let look = shape.look();
    let unit = shape.kinds.map_or(W::BYTES, |_| shape.columns * W::BYTES);
    let edges = shape.edges(base.len() / W::BYTES);
    let size = |run: usize| (edges[run + 1] - edges[run]) * unit;
    let [tables0, tables1, tables2, tables3] = &mut places[..] else { return };
    let mut tables = [tables0, tables1, tables2, tables3];

    let (raw0, rest) = raw.cut(size(0));
    let (raw1, rest) = rest.cut(size(1));
    let (raw2, rest) = rest.cut(size(2));
    let (raw3, _) = rest.cut(size(3));
    let mut lanes = [Some(raw0), Some(raw1), Some(raw2), Some(raw3)];
    let mut bases: [&[u8]; RUNS] = std::array::from_fn(|run| &base[edges[run] * unit..edges[run + 1] * unit]);

    // What can go in step does: as many words of each run as the last one has, or as many rows.
    if shape.kinds.is_none() {
        let common = size(RUNS - 1);
        let [table0, table1, table2, table3] = &mut tables;
        let firsts = lanes.each_mut().map(|lane| cut_lane(lane, common));
        let first = [&mut table0[0], &mut table1[0], &mut table2[0], &mut table3[0]];
        let trends = [trend.filter(|trend| trend.kind == 0); RUNS];
        four(pass, look, bases.map(|base| &base[..common]), firsts, trends, first);
        bases = bases.map(|base| &base[common..]);
    } else if let Some(kinds) = shape.kinds {
        let rows = edges[RUNS] - edges[RUNS - 1];
        for offset in 0..rows {
            let kind: [u8; RUNS] = std::array::from_fn(|run| kinds[edges[run] + offset]);
            let firsts = lanes.each_mut().map(|lane| cut_lane(lane, unit));
            let starts = bases.map(|base| &base[..unit]);
            bases = bases.map(|base| &base[unit..]);
            let trends = kind.map(|kind| trend.filter(|trend| trend.kind == kind));
            let [table0, table1, table2, table3] = &mut tables;
            let of_kind = [
                &mut table0[usize::from(kind[0])],
                &mut table1[usize::from(kind[1])],
                &mut table2[usize::from(kind[2])],
                &mut table3[usize::from(kind[3])],
            ];
            four(pass, look, starts, firsts, trends, of_kind);
        }
    }
    // What is left of the longer runs.
    for run in 0..RUNS {
        let Some(mut lane) = lanes[run].take() else { continue };
        let mut base = bases[run];
        while !base.is_empty() {
            let row_bytes = if shape.kinds.is_some() { unit } else { base.len() };
            let kind = shape.kinds.map_or(0, |kinds| kinds[edges[run + 1] - base.len() / unit]);
            let (row, rest) = base.split_at(row_bytes);
            let (raw, lane_rest) = lane.cut(row_bytes);
            let trend = trend.filter(|trend| trend.kind == kind);
            one(pass, look, row, raw, trend, &mut tables[run][usize::from(kind)]);
            base = rest;
            lane = lane_rest;
        }
    }
}

/// Cut so many bytes off the front of a lane.
#[inline(always)]
fn cut_lane<L: Lane>(lane: &mut Option<L>, at: usize) -> Option<L> {
    let (front, rest) = lane.take()?.cut(at);
    *lane = Some(rest);
    Some(front)
}

struct Sorting<'a, W> {
    ordered: &'a mut [W],
}

impl<'a, W: Word> Pass<W> for Sorting<'a, W> {
    type Lane = &'a [u8];
    #[inline(always)]
    fn before(&self, raw: &Self::Lane, base: &[u8], trend: Option<Trend>) -> [W; STRIP] {
        let mut words = [W::default(); STRIP];
        let pairs = raw.bytes().chunks_exact(W::BYTES).zip(base.chunks_exact(W::BYTES));
        match trend {
            None => {
                for (word, (raw, base)) in words.iter_mut().zip(pairs) {
                    *word = W::read(raw).sub(W::read(base)).zigzag();
                }
            }
            Some(trend) => {
                for (word, (raw, base)) in words.iter_mut().zip(pairs) {
                    let base = W::read(base);
                    *word = W::read(raw).sub(base).sub(trend.expected(base)).zigzag();
                }
            }
        }
        words
    }
    #[inline(always)]
    fn touch(&mut self, word: &mut W, place: usize) {
        if let Some(slot) = self.ordered.get_mut(place) {
            *slot = *word;
        }
    }
    #[inline(always)]
    fn after(&self, _: &[W; STRIP], _: Self::Lane, _: &[u8], _: Option<Trend>) {}
}

struct Unsorting<'a, W> {
    ordered: &'a [W],
}

impl<'a, W: Word> Pass<W> for Unsorting<'a, W> {
    type Lane = &'a mut [u8];
    #[inline(always)]
    fn before(&self, _: &Self::Lane, _: &[u8], _: Option<Trend>) -> [W; STRIP] {
        [W::default(); STRIP]
    }
    #[inline(always)]
    fn touch(&mut self, word: &mut W, place: usize) {
        *word = self.ordered.get(place).copied().unwrap_or_default();
    }
    #[inline(always)]
    fn after(&self, words: &[W; STRIP], raw: Self::Lane, base: &[u8], trend: Option<Trend>) {
        let triples = raw.chunks_exact_mut(W::BYTES).zip(base.chunks_exact(W::BYTES)).zip(words);
        match trend {
            None => {
                for ((raw, base), word) in triples {
                    W::read(base).add(word.unzigzag()).write(raw);
                }
            }
            Some(trend) => {
                for ((raw, base), word) in triples {
                    let base = W::read(base);
                    base.add(word.unzigzag()).add(trend.expected(base)).write(raw);
                }
            }
        }
    }
}

/// The zigzag differences of raw to base (and what the trend expects), by context.
///
/// `counts` are those of this base; with others, words are missing or lie elsewhere, and nothing else happens.
#[inline(always)]
pub fn sort<W: Word>(
    raw: &[u8],
    base: &[u8],
    shape: &Shape,
    counts: &[u32],
    trend: Option<Trend>,
    ordered: &mut [W],
) -> Result<(), Wrong> {
    let mut places = places(counts, shape, ordered.len())?;
    if let Some(lanes) = Lanes::here::<W>() {
        let common = Common::of(&totals(counts, shape));
        for (run, kind, span) in shape.units::<W>(base.len() / W::BYTES) {
            let trend = trend.filter(|trend| usize::from(trend.kind) == kind);
            let pair = (&raw[span.clone()], &base[span]);
            lanes.sort::<W>(pair, shape.look(), &common, trend, &mut places[run][kind], ordered);
        }
        return Ok(());
    }
    walk(&mut Sorting { ordered }, base, raw, shape, places, trend);
    Ok(())
}

/// Undo `sort`.
#[inline(always)]
pub fn unsort<W: Word>(
    ordered: &[W],
    base: &[u8],
    shape: &Shape,
    counts: &[u32],
    trend: Option<Trend>,
    raw: &mut [u8],
) -> Result<(), Wrong> {
    let mut places = places(counts, shape, ordered.len())?;
    if let Some(lanes) = Lanes::here::<W>() {
        let common = Common::of(&totals(counts, shape));
        for (run, kind, span) in shape.units::<W>(base.len() / W::BYTES) {
            let trend = trend.filter(|trend| usize::from(trend.kind) == kind);
            let pair = (&base[span.clone()], &mut raw[span]);
            lanes.unsort::<W>(ordered, pair, shape.look(), &common, trend, &mut places[run][kind]);
        }
        return Ok(());
    }
    walk(&mut Unsorting { ordered }, base, raw, shape, places, trend);
    Ok(())
}

/// The mode of each context that has words, from a sample of them: what is likely to take the fewest bits.
///
/// `plogp` is n log2 n of all counts that a sample can have, in units of 2^-12 bits.
#[inline(always)]
pub fn choose_modes<W: Word>(ordered: &[W], lengths: &[u32], plogp: &[i64], modes: &mut [u8]) -> Result<(), Wrong> {
    if plogp.len() < 2 * SAMPLE_WORDS {
        return Err("the table of logarithms is too short");
    }
    let word_bits = 8 * W::BYTES;
    let mut rest = ordered;
    let mut modes = modes.iter_mut();
    for length in lengths.iter().map(|length| *length as usize).filter(|length| *length > 0) {
        let words = cut(&mut rest, length)?;
        let mut fine = [0i64; BINS];
        for word in words.iter().step_by((length / SAMPLE_WORDS).max(1)) {
            let value = word.wide();
            let bin = if value < EXACT as u64 { value as usize } else { EXACT - 5 + word.length() as usize };
            fine[bin] += 1;
        }
        let mut octave = [0i64; 65];
        for (value, words) in fine[..EXACT].iter().enumerate() {
            octave[(usize::BITS - value.leading_zeros()) as usize] += words;
        }
        octave[5..].copy_from_slice(&fine[EXACT..]);
        let total: i64 = octave.iter().sum();
        let mut best: Option<(i64, u8)> = None;
        for (bits, extra) in CANDIDATES {
            let mut drop = 0;
            if bits >= 4 {
                // The fewest low bits with which all but few words fit into a symbol.
                let few = if bits == 4 { 16 } else { 256 };
                let mut above = total;
                let over = |words: &i64| {
                    above -= words;
                    above * few > total
                };
                let longest = octave.iter().map(over).filter(|is_over| *is_over).count();
                drop = (longest + extra).saturating_sub(bits).min(word_bits - bits);
            }
            let cost = if drop > 0 {
                let mut shifted = [0i64; 65];
                shifted[..65 - drop].copy_from_slice(&octave[drop..]);
                shifted[0] = octave[..=drop].iter().sum();
                total * ((drop as i64) << UNIT_BITS)
                    + cost(&shifted, |cell| cell.saturating_sub(1), bits, bits, word_bits, plogp)
            } else {
                let inside = if bits < 8 { (1 << bits) - 1 } else { EXACT + 3 };
                let logarithm = |cell: usize| if cell < EXACT { 0 } else { cell - EXACT + 4 };
                cost(&fine, logarithm, inside, bits, word_bits, plogp)
            };
            if best.is_none_or(|(least, _)| cost < least) {
                best = Some((cost, (64 * bits.ilog2()) as u8 + drop as u8));
            }
        }
        *modes.next().ok_or("not a mode for each context")? = best.map_or(0, |(_, mode)| mode);
    }
    Ok(())
}

/// What words cost in symbols of so many bits with their escapes; see `transforms.py`.
#[inline(always)]
fn cost(
    cells: &[i64],
    logarithm: impl Fn(usize) -> usize,
    inside: usize,
    bits: usize,
    word_bits: usize,
    plogp: &[i64],
) -> i64 {
    let plogp = |words: i64| plogp.get(words as usize).copied().unwrap_or_default();
    let total: i64 = cells.iter().sum();
    let share = cells[inside] >> logarithm(inside);
    let (mut symbols, mut escapes) = (plogp(total), 0);
    let (mut escaped, mut far) = (0, 0);
    let (mut kept_bits, mut gone_bits) = (0, 0);
    for (cell, words) in cells.iter().enumerate() {
        let bits = logarithm(cell) as i64;
        let kept = if cell < inside {
            *words
        } else if cell == inside {
            words - share
        } else {
            0
        };
        symbols -= plogp(kept);
        kept_bits += kept * bits;
        let gone = if cell < inside {
            0
        } else if cell == inside {
            share
        } else {
            *words
        };
        escapes -= plogp(gone);
        escaped += gone;
        if cell > inside {
            gone_bits += gone * bits;
            if bits >= 8 {
                far += gone;
            }
        }
    }
    symbols += (kept_bits << UNIT_BITS) - plogp(escaped);
    escapes += plogp(escaped) + (gone_bits << UNIT_BITS);
    let bits = bits as i64;
    let code = symbols.max(((total * bits) << UNIT_BITS) >> 3) + ((total * bits * BYTE_PRICE) >> 3);
    code + escapes.clamp(escaped << UNIT_BITS, escaped << (UNIT_BITS + 3))
        + escaped * ESCAPE_PRICE
        + (far * word_bits as i64) * (1 << UNIT_BITS)
}

/// Bits of a symbol, and how many low bits are split off.
fn mode_of<W: Word>(mode: u8) -> Result<(u32, u32), Wrong> {
    let (bits, drop) = (1 << (mode >> 6), u32::from(mode & 63));
    if (bits + drop) as usize > 8 * W::BYTES {
        return Err("a mode of more bits than a word has");
    }
    Ok((bits, drop))
}

/// The contexts that have words, each with its mode.
fn contexts<'a>(lengths: &'a [u32], modes: &'a [u8]) -> Result<impl Iterator<Item = (usize, u8)> + 'a, Wrong> {
    if lengths.iter().filter(|length| **length > 0).count() != modes.len() {
        return Err("not a mode for each context");
    }
    Ok(lengths.iter().filter(|length| **length > 0).map(|length| *length as usize).zip(modes.iter().copied()))
}

/// Cut `size` elements off the front of a slice.
fn cut<'a, T>(rest: &mut &'a [T], size: usize) -> Result<&'a [T], Wrong> {
    if size > rest.len() {
        return Err("a stream is too short");
    }
    let (front, after) = rest.split_at(size);
    *rest = after;
    Ok(front)
}

fn cut_mut<'a, T>(rest: &mut &'a mut [T], size: usize) -> Result<&'a mut [T], Wrong> {
    if size > rest.len() {
        return Err("a stream is too short");
    }
    let (front, after) = std::mem::take(rest).split_at_mut(size);
    *rest = after;
    Ok(front)
}

/// Words that are looked at in one go, and again where one of them is an escape: all that is packed ends in a whole byte.
const STRIDE: usize = 32;

/// Write sorted differences as symbols and low bits; give (escapes, far words) back.
#[inline(always)]
pub fn pack<W: Word>(
    ordered: &[W],
    lengths: &[u32],
    modes: &[u8],
    mut symbols: &mut [u8],
    mut low: &mut [u8],
) -> Result<(Vec<u8>, Vec<u8>), Wrong> {
    let mut rest = ordered;
    let mut escapes = Vec::new();
    let mut far = Vec::new();
    for (length, mode) in contexts(lengths, modes)? {
        let (bits, drop) = mode_of::<W>(mode)?;
        let words = cut(&mut rest, length)?;
        let out = cut_mut(&mut symbols, (length * bits as usize).div_ceil(8))?;
        match bits {
            1 => pack_symbols::<W, 1>(words, drop, out, &mut escapes, &mut far),
            2 => pack_symbols::<W, 2>(words, drop, out, &mut escapes, &mut far),
            4 => pack_symbols::<W, 4>(words, drop, out, &mut escapes, &mut far),
            _ => pack_symbols::<W, 8>(words, drop, out, &mut escapes, &mut far),
        }
        if drop > 0 {
            pack_low(words, drop, cut_mut(&mut low, (length * drop as usize).div_ceil(8))?);
        }
    }
    if rest.is_empty() && symbols.is_empty() && low.is_empty() {
        Ok((escapes, far))
    } else {
        Err("a stream is too long")
    }
}

#[inline(always)]
fn pack_symbols<W: Word, const BITS: usize>(
    words: &[W],
    drop: u32,
    out: &mut [u8],
    escapes: &mut Vec<u8>,
    far: &mut Vec<u8>,
) {
    let limit = W::narrow((1u64 << BITS) - 1);
    for (words, out) in words.chunks(STRIDE).zip(out.chunks_mut(STRIDE * BITS / 8)) {
        // Of one length always, so that all of a stride is done at once.
        let mut stride = [W::default(); STRIDE];
        stride[..words.len()].copy_from_slice(words);
        let mut symbols = [0u8; STRIDE];
        let mut escaped = 0u8;
        for (symbol, word) in symbols.iter_mut().zip(&stride) {
            *symbol = word.shifted(drop).at_most(limit).low_byte();
            escaped |= u8::from(*symbol == limit.low_byte());
        }
        let mut packed = [0u8; STRIDE];
        for (bytes, symbols) in packed.chunks_exact_mut(BITS).zip(symbols.chunks_exact(8)) {
            // Neighbours move together: two, then four, then all eight.
            let mut eight = u64::read(symbols);
            if BITS < 8 {
                eight = (eight | eight >> (8 - BITS)) & low_of_each(16, 2 * BITS);
                eight = (eight | eight >> (16 - 2 * BITS)) & low_of_each(32, 4 * BITS);
                eight |= eight >> (32 - 4 * BITS);
            }
            bytes.copy_from_slice(&eight.to_le_bytes()[..BITS]);
        }
        let size = out.len();
        out.copy_from_slice(&packed[..size]);
        if escaped != 0 {
            for place in places_of(&symbols, limit.low_byte()) {
                let over = stride[place].shifted(drop).wide() - limit.wide();
                escapes.push(over.min(255) as u8);
                if over >= 255 {
                    far.extend_from_slice(&(over - 255).to_le_bytes()[..W::BYTES]);
                }
            }
        }
    }
}

/// The places of a symbol, from the first on.
#[inline(always)]
fn places_of(symbols: &[u8; STRIDE], symbol: u8) -> impl Iterator<Item = usize> {
    let mut bits = 0u32;
    for (place, eight) in symbols.chunks_exact(8).enumerate() {
        let other = u64::read(eight) ^ (u64::from(symbol) * low_of_each(8, 1));
        // The highest bit of each byte that is zero, and of no other one; then these eight side by side.
        let equal = !((other & low_of_each(8, 7)).wrapping_add(low_of_each(8, 7)) | other | low_of_each(8, 7));
        bits |= ((equal >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56) as u32 * (1 << (8 * place));
    }
    std::iter::from_fn(move || {
        let place = bits.trailing_zeros();
        bits &= bits.wrapping_sub(1);
        (place < u32::BITS).then_some(place as usize)
    })
}

/// The lowest bits, so many, of each group of 8, 16 or 32.
const fn low_of_each(group: usize, bits: usize) -> u64 {
    let ones = (1 << bits) - 1;
    match group {
        8 => ones * 0x0101_0101_0101_0101,
        16 => ones * 0x0001_0001_0001_0001,
        _ => ones * 0x0000_0001_0000_0001,
    }
}

/// Write the low bits of words, one behind the other from the lowest bit up.
#[inline(always)]
fn pack_low<W: Word>(words: &[W], drop: u32, out: &mut [u8]) {
    // As many words at once as leave room for what is held, less than a byte, in 64 bits.
    let (rest, place, held, count) = match drop {
        0..=8 => pack_low_eights(words, drop, out),
        9..=14 => pack_low_groups::<W, 4>(words, drop, out),
        15..=28 => pack_low_groups::<W, 2>(words, drop, out),
        29..=56 => pack_low_groups::<W, 1>(words, drop, out),
        _ => (words, 0, 0, 0),
    };
    let (mut place, mut held, mut count) = (place, u128::from(held), count);
    let mut flush = |held: &mut u128| {
        if let Some(byte) = out.get_mut(place) {
            *byte = *held as u8;
        }
        *held >>= 8;
        place += 1;
    };
    for word in rest {
        held |= u128::from(word.wide() & ((1 << drop) - 1)) << count;
        count += drop;
        while count >= 8 {
            flush(&mut held);
            count -= 8;
        }
    }
    if count > 0 {
        flush(&mut held);
    }
}

/// The same for eight words at once, which end in a whole byte: nothing is held.
#[inline(always)]
fn pack_low_eights<'a, W: Word>(words: &'a [W], drop: u32, out: &mut [u8]) -> (&'a [W], usize, u64, u32) {
    let mask = (1u64 << drop) - 1;
    let many = (out.len().saturating_sub(8) / drop.max(1) as usize).min(words.len() / 8);
    let (quick, rest) = words.split_at(many * 8);
    for (place, eight) in quick.chunks_exact(8).enumerate() {
        let mut value = 0;
        for (at, word) in eight.iter().enumerate() {
            value |= (word.wide() & mask) << (at as u32 * drop);
        }
        let start = place * drop as usize;
        out[start..start + 8].copy_from_slice(&value.to_le_bytes());
    }
    (rest, many * drop as usize, 0, 0)
}

/// Write groups of words while eight bytes can be written; give back (words left, bytes written, bits held, how many).
#[inline(always)]
fn pack_low_groups<'a, W: Word, const GROUP: usize>(
    words: &'a [W],
    drop: u32,
    out: &mut [u8],
) -> (&'a [W], usize, u64, u32) {
    let mask = (1u64 << drop) - 1;
    let (mut place, mut held, mut count) = (0, 0u64, 0u32);
    let mut groups = words.chunks_exact(GROUP);
    let mut left = words;
    for group in &mut groups {
        let Some(out) = out.get_mut(place..place + 8) else { break };
        let mut value = 0;
        for (at, word) in group.iter().enumerate() {
            value |= (word.wide() & mask) << (at as u32 * drop);
        }
        held |= value << count;
        out.copy_from_slice(&held.to_le_bytes());
        count += GROUP as u32 * drop;
        held = held.checked_shr(count & !7).unwrap_or(0);
        place += (count >> 3) as usize;
        count &= 7;
        left = &left[GROUP..];
    }
    (left, place, held, count)
}

/// Undo `pack`.
#[inline(always)]
pub fn unpack<W: Word>(
    mut symbols: &[u8],
    mut low: &[u8],
    escapes: &[u8],
    far: &[u8],
    lengths: &[u32],
    modes: &[u8],
    mut ordered: &mut [W],
) -> Result<(), Wrong> {
    let mut escapes = escapes.iter();
    let mut far = far.chunks(W::BYTES);
    for (length, mode) in contexts(lengths, modes)? {
        let (bits, drop) = mode_of::<W>(mode)?;
        let words = cut_mut(&mut ordered, length)?;
        let packed = cut(&mut symbols, (length * bits as usize).div_ceil(8))?;
        match bits {
            1 => unpack_symbols::<W, 1>(packed, words, &mut escapes, &mut far)?,
            2 => unpack_symbols::<W, 2>(packed, words, &mut escapes, &mut far)?,
            4 => unpack_symbols::<W, 4>(packed, words, &mut escapes, &mut far)?,
            _ => unpack_symbols::<W, 8>(packed, words, &mut escapes, &mut far)?,
        }
        if drop > 0 {
            unpack_low(cut(&mut low, (length * drop as usize).div_ceil(8))?, drop, words);
        }
    }
    if escapes.next().is_some() || far.next().is_some() {
        return Err("too many escapes or far words");
    }
    if ordered.is_empty() && symbols.is_empty() && low.is_empty() {
        Ok(())
    } else {
        Err("a stream is too long")
    }
}

#[inline(always)]
fn unpack_symbols<W: Word, const BITS: usize>(
    packed: &[u8],
    words: &mut [W],
    escapes: &mut std::slice::Iter<u8>,
    far: &mut std::slice::Chunks<u8>,
) -> Result<(), Wrong> {
    let limit = ((1u16 << BITS) - 1) as u8;
    for (words, packed) in words.chunks_mut(STRIDE).zip(packed.chunks(STRIDE * BITS / 8)) {
        let mut bytes = [0u8; STRIDE];
        bytes[..packed.len()].copy_from_slice(packed);
        let mut symbols = [0u8; STRIDE];
        for (group, byte) in symbols.chunks_exact_mut(8 / BITS).zip(&bytes) {
            for (place, symbol) in group.iter_mut().enumerate() {
                *symbol = (byte >> (place * BITS)) & limit;
            }
        }
        let mut stride = [W::default(); STRIDE];
        let mut escaped = 0u8;
        for (word, symbol) in stride.iter_mut().zip(&symbols) {
            *word = W::narrow(u64::from(*symbol));
            escaped |= u8::from(*symbol == limit);
        }
        let size = words.len();
        words.copy_from_slice(&stride[..size]);
        if escaped != 0 {
            for (word, _) in words.iter_mut().zip(&symbols).filter(|(_, symbol)| **symbol == limit) {
                let over = *escapes.next().ok_or("too few escapes")?;
                *word = word.add(W::narrow(u64::from(over)));
                if over == 255 {
                    let more = far.next().filter(|more| more.len() == W::BYTES).ok_or("too few far words")?;
                    *word = word.add(W::read(more));
                }
            }
        }
    }
    Ok(())
}

/// Add low bits to what symbols say.
#[inline(always)]
fn unpack_low<W: Word>(packed: &[u8], drop: u32, words: &mut [W]) {
    let mask = (1u64 << drop) - 1;
    // Eight bytes hold the bits of any word where they begin in the first of them; the last words have fewer behind them.
    let quick = if drop <= 56 && packed.len() >= 8 { (packed.len() - 8) * 8 / drop as usize + 1 } else { 0 };
    let (mut quick, slow) = words.split_at_mut(quick.min(words.len()));
    let mut bit = 0;
    if drop <= 8 {
        // Eight words begin and end with a byte.
        let eights = quick.len() / 8;
        let (whole, rest) = quick.split_at_mut(eights * 8);
        for (place, eight) in whole.chunks_exact_mut(8).enumerate() {
            let start = place * drop as usize;
            let value = u64::read(&packed[start..start + 8]);
            for (at, word) in eight.iter_mut().enumerate() {
                *word = W::narrow(word.wide() << drop | value >> (at as u32 * drop) & mask);
            }
        }
        bit = eights * 8 * drop as usize;
        quick = rest;
    }
    for word in quick.iter_mut() {
        let value = u64::read(&packed[bit / 8..bit / 8 + 8]) >> (bit % 8);
        *word = W::narrow(word.wide() << drop | value & mask);
        bit += drop as usize;
    }
    for word in slow {
        let mut wide = [0u8; 16];
        for (byte, packed) in wide.iter_mut().zip(&packed[bit / 8..]).take(9) {
            *byte = *packed;
        }
        let value = (u128::from_le_bytes(wide) >> (bit % 8)) as u64;
        *word = W::narrow(word.wide() << drop | value & mask);
        bit += drop as usize;
    }
}
