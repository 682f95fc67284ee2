//! `understudy_native`: the words' transforms for Python. Buffers in, buffers out, the GIL released meanwhile.

mod floats;
mod lanes;
mod wide;
mod words;

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyValueError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use words::{Shape, Trend, Word, Wrong};

fn wrong(message: Wrong) -> PyErr {
    PyValueError::new_err(message)
}

/// The bytes of a contiguous buffer.
fn source(buffer: &PyBuffer<u8>) -> PyResult<&[u8]> {
    if !buffer.is_c_contiguous() {
        return Err(wrong("a buffer is not contiguous"));
    }
    if buffer.len_bytes() == 0 {
        return Ok(&[]);
    }
    // SAFETY: contiguous, of this length, and kept by the buffer that the slice borrows from. Nobody writes to the
    // operands of a coder while it runs: its callers' promise, as for every reader of a buffer that releases the GIL.
    Ok(unsafe { std::slice::from_raw_parts(buffer.buf_ptr().cast::<u8>(), buffer.len_bytes()) })
}

/// The same, to be written to.
fn target(buffer: &mut PyBuffer<u8>) -> PyResult<&mut [u8]> {
    if buffer.readonly() || !buffer.is_c_contiguous() {
        return Err(wrong("a buffer cannot be written to"));
    }
    if buffer.len_bytes() == 0 {
        return Ok(&mut []);
    }
    // SAFETY: as above, and writable; `apart` refuses one that overlaps another operand.
    Ok(unsafe { std::slice::from_raw_parts_mut(buffer.buf_ptr().cast::<u8>(), buffer.len_bytes()) })
}

/// Bytes of a length, made by what fills them while the GIL is released. Whatever it leaves out is zero.
fn filled<'py>(
    py: Python<'py>,
    length: usize,
    fill: impl FnOnce(&mut [u8]) -> Result<(), Wrong> + Send,
) -> PyResult<Bound<'py, PyBytes>> {
    let size = ffi::Py_ssize_t::try_from(length).map_err(|_| wrong("more bytes than there can be"))?;
    // SAFETY: Python gives new bytes of that length, or an error; nobody else has seen them yet. They are zeroed here,
    // and not by `PyBytes::new_with`, because the first touch of so many pages takes long, and others want the GIL.
    unsafe {
        let bytes = Bound::from_owned_ptr_or_err(py, ffi::PyBytes_FromStringAndSize(std::ptr::null(), size))?;
        let start = ffi::PyBytes_AsString(bytes.as_ptr()) as usize;
        py.detach(|| {
            std::ptr::write_bytes(start as *mut u8, 0, length);
            fill(std::slice::from_raw_parts_mut(start as *mut u8, length))
        })
        .map_err(wrong)?;
        Ok(bytes.cast_into_unchecked())
    }
}

/// Bytes of a length, made a part after another by what fills each while the GIL is released: it is given where the
/// part begins, and the part, zeroed just before, so that it lies in the nearest caches.
fn filled_by_parts<'py>(
    py: Python<'py>,
    length: usize,
    mut fill: impl FnMut(usize, &mut [u8]) -> Result<(), Wrong> + Send,
) -> PyResult<Bound<'py, PyBytes>> {
    let size = ffi::Py_ssize_t::try_from(length).map_err(|_| wrong("more bytes than there can be"))?;
    // SAFETY: as in `filled`; the parts lie in the bytes, and each is zeroed before it is a slice.
    unsafe {
        let bytes = Bound::from_owned_ptr_or_err(py, ffi::PyBytes_FromStringAndSize(std::ptr::null(), size))?;
        let start = ffi::PyBytes_AsString(bytes.as_ptr()) as usize;
        py.detach(|| {
            (0..length).step_by(PART_BYTES).try_for_each(|place| {
                let (part, count) = ((start + place) as *mut u8, PART_BYTES.min(length - place));
                std::ptr::write_bytes(part, 0, count);
                fill(place, std::slice::from_raw_parts_mut(part, count))
            })
        })
        .map_err(wrong)?;
        Ok(bytes.cast_into_unchecked())
    }
}

/// Whole words of any width, and an even number of them.
const PART_BYTES: usize = 64 << 10;

/// Refuse results that lie in one another or in what is read.
fn apart(read: &[&PyBuffer<u8>], written: &[&PyBuffer<u8>]) -> PyResult<()> {
    let span = |buffer: &PyBuffer<u8>| (buffer.buf_ptr() as usize, buffer.buf_ptr() as usize + buffer.len_bytes());
    for (place, out) in written.iter().enumerate() {
        let (start, end) = span(out);
        for other in read.iter().chain(&written[..place]) {
            let (other_start, other_end) = span(other);
            if start < other_end && other_start < end {
                return Err(wrong("two buffers overlap"));
            }
        }
    }
    Ok(())
}

/// Bytes as values of another type. Errors where they do not lie or end as such do.
fn typed<T: Plain>(bytes: &[u8]) -> PyResult<&[T]> {
    // SAFETY: any bytes are values of a `Plain` type; a misaligned or partial value is refused.
    let (before, values, after) = unsafe { bytes.align_to::<T>() };
    if before.is_empty() && after.is_empty() {
        Ok(values)
    } else {
        Err(wrong("a buffer is not aligned, or ends in part of a value"))
    }
}

fn typed_mut<T: Plain>(bytes: &mut [u8]) -> PyResult<&mut [T]> {
    // SAFETY: as above.
    let (before, values, after) = unsafe { bytes.align_to_mut::<T>() };
    if before.is_empty() && after.is_empty() {
        Ok(values)
    } else {
        Err(wrong("a buffer is not aligned, or ends in part of a value"))
    }
}

/// Numbers: every pattern of bits is a value.
trait Plain: Copy {}
impl Plain for u8 {}
impl Plain for u16 {}
impl Plain for u32 {}
impl Plain for u64 {}
impl Plain for i32 {}
impl Plain for i64 {}
impl Plain for f32 {}
impl Plain for f64 {}

/// Call a generic function for the width of a word.
macro_rules! by_width {
    ($width:expr, $word:ident => $call:expr) => {
        match $width {
            1 => {
                type $word = u8;
                $call
            }
            2 => {
                type $word = u16;
                $call
            }
            4 => {
                type $word = u32;
                $call
            }
            8 => {
                type $word = u64;
                $call
            }
            _ => Err(wrong("no such width")),
        }
    };
}

fn whole<W: Word>(bytes: &[u8]) -> PyResult<()> {
    if bytes.len() % W::BYTES == 0 {
        Ok(())
    } else {
        Err(wrong("a buffer ends in part of a word"))
    }
}

/// split(raw, width, planes): `planes` receives the planes one behind the other, the highest first.
#[pyfunction]
fn split(py: Python<'_>, raw: PyBuffer<u8>, width: usize, mut planes: PyBuffer<u8>) -> PyResult<()> {
    apart(&[&raw], &[&planes])?;
    let (raw, planes) = (source(&raw)?, target(&mut planes)?);
    by_width!(width, W => {
        whole::<W>(raw)?;
        if planes.len() != raw.len() {
            return Err(wrong("the planes are of another length"));
        }
        if raw.is_empty() {
            return Ok(());
        }
        let mut planes: Vec<&mut [u8]> = planes.chunks_exact_mut(raw.len() / width).collect();
        py.detach(|| wide::split::<W>(raw, &mut planes));
        Ok(())
    })
}

/// join(planes, width) -> bytes: undo `split`; each plane is a buffer of its own.
#[pyfunction]
fn join<'py>(py: Python<'py>, planes: Vec<PyBuffer<u8>>, width: usize) -> PyResult<Bound<'py, PyBytes>> {
    let planes = planes.iter().map(source).collect::<PyResult<Vec<_>>>()?;
    let length = planes.first().map_or(0, |plane| plane.len());
    by_width!(width, W => {
        if planes.len() != W::BYTES || planes.iter().any(|plane| plane.len() != length) {
            return Err(wrong("the planes are of another length"));
        }
        filled_by_parts(py, length * W::BYTES, |place, raw| {
            let (start, end) = (place / W::BYTES, (place + raw.len()) / W::BYTES);
            let planes: Vec<&[u8]> = planes.iter().map(|plane| &plane[start..end]).collect();
            wide::join::<W>(&planes, raw);
            Ok(())
        })
    })
}

/// join_pairs(pairs, far, top, others, width) -> bytes: undo `pair`, then `split`; `others` are the planes below.
#[pyfunction]
fn join_pairs<'py>(
    py: Python<'py>,
    pairs: PyBuffer<u8>,
    far: PyBuffer<u8>,
    top: u8,
    others: Vec<PyBuffer<u8>>,
    width: usize,
) -> PyResult<Bound<'py, PyBytes>> {
    let (pairs, mut far) = (source(&pairs)?, source(&far)?);
    let others = others.iter().map(source).collect::<PyResult<Vec<_>>>()?;
    let length = others.first().map_or(0, |plane| plane.len());
    if pairs.len() != length.div_ceil(2) {
        return Err(wrong("the pairs are of another length"));
    }
    let joined = by_width!(width, W => {
        if others.len() + 1 != W::BYTES || others.iter().any(|plane| plane.len() != length) {
            return Err(wrong("the planes are of another length"));
        }
        filled_by_parts(py, length * W::BYTES, |place, raw| {
            let (start, end) = (place / W::BYTES, (place + raw.len()) / W::BYTES);
            let others: Vec<&[u8]> = others.iter().map(|plane| &plane[start..end]).collect();
            wide::join_pairs::<W>(&pairs[start / 2..end.div_ceil(2)], &mut far, top, &others, raw)
        })
    })?;
    if far.is_empty() { Ok(joined) } else { Err(wrong(words::TOO_MANY_FAR)) }
}

/// pair(plane, top, pairs) -> far
#[pyfunction]
fn pair<'py>(py: Python<'py>, plane: PyBuffer<u8>, top: u8, mut pairs: PyBuffer<u8>) -> PyResult<Bound<'py, PyBytes>> {
    apart(&[&plane], &[&pairs])?;
    let (plane, pairs) = (source(&plane)?, target(&mut pairs)?);
    if pairs.len() != plane.len().div_ceil(2) {
        return Err(wrong("the pairs are of another length"));
    }
    let far = py.detach(|| wide::pair(plane, top, pairs));
    Ok(PyBytes::new(py, &far))
}

/// unpair(pairs, far, top, plane)
#[pyfunction]
fn unpair(py: Python<'_>, pairs: PyBuffer<u8>, far: PyBuffer<u8>, top: u8, mut plane: PyBuffer<u8>) -> PyResult<()> {
    apart(&[&pairs, &far], &[&plane])?;
    let (pairs, far, plane) = (source(&pairs)?, source(&far)?, target(&mut plane)?);
    if pairs.len() != plane.len().div_ceil(2) {
        return Err(wrong("the pairs are of another length"));
    }
    py.detach(|| wide::unpair(pairs, far, top, plane)).map_err(wrong)
}

/// survey(raw, base, width, columns, step, activity, state)
#[pyfunction]
#[allow(clippy::too_many_arguments)]
fn survey(
    py: Python<'_>,
    raw: PyBuffer<u8>,
    base: PyBuffer<u8>,
    width: usize,
    columns: usize,
    step: usize,
    mut activity: PyBuffer<u8>,
    mut state: PyBuffer<u8>,
) -> PyResult<()> {
    apart(&[&raw, &base], &[&activity, &state])?;
    let (raw, base, state) = (source(&raw)?, source(&base)?, target(&mut state)?);
    let activity = typed_mut::<u32>(target(&mut activity)?)?;
    by_width!(width, W => {
        let rows = state.len();
        let size = rows.checked_mul(columns).and_then(|words| words.checked_mul(width));
        if columns == 0 || step == 0 || step > columns || activity.len() != rows || size != Some(raw.len()) || raw.len() != base.len() {
            return Err(wrong("the rows are not all of the words"));
        }
        py.detach(|| wide::survey::<W>(raw, base, columns, step, activity, state));
        Ok(())
    })
}

/// How words lie, as Python hands it over: (width, shift, bits, columns, kinds or None, how many kinds).
type Lie = (usize, u32, u32, usize, Option<PyBuffer<u8>>, usize);
/// A trend: (kind, bits of the mantissa, how many are dropped, slope, entries).
type Given = (u8, u32, u32, i64, PyBuffer<u8>);

fn shape_of(lie: &Lie, base: &[u8]) -> PyResult<Shape<'static>> {
    let (width, shift, bits, columns, _, kind_count) = lie;
    let shape = Shape { shift: *shift, bits: *bits, columns: *columns, kinds: None, kind_count: *kind_count };
    if !matches!(width, 1 | 2 | 4 | 8) || base.len() % width != 0 {
        return Err(wrong("a buffer ends in part of a word"));
    }
    Ok(shape)
}

fn with_kinds<'a>(shape: Shape<'static>, lie: &'a Lie, base: &[u8]) -> PyResult<Shape<'a>> {
    let kinds = lie.4.as_ref().map(source).transpose()?;
    let shape = Shape { kinds, ..shape };
    shape.check(base.len() / lie.0, lie.0).map_err(wrong)?;
    Ok(shape)
}

fn trend_of(given: &Option<Given>) -> PyResult<Option<Trend<'_>>> {
    let Some((kind, mantissa, drop, slope, entries)) = given else {
        return Ok(None);
    };
    let trend =
        Trend { kind: *kind, mantissa: *mantissa, drop: *drop, slope: *slope, entries: typed(source(entries)?)? };
    trend.check().map_err(wrong)?;
    Ok(Some(trend))
}

/// count(base, lie, counts): `counts` receives words::RUNS tables of 32-bit counts.
#[pyfunction]
fn count(py: Python<'_>, base: PyBuffer<u8>, lie: Lie, mut counts: PyBuffer<u8>) -> PyResult<()> {
    apart(&[&base], &[&counts])?;
    let base = source(&base)?;
    let shape = with_kinds(shape_of(&lie, base)?, &lie, base)?;
    let counts = typed_mut::<u32>(target(&mut counts)?)?;
    if counts.len() != words::RUNS * shape.contexts() {
        return Err(wrong("the counts are of other contexts"));
    }
    by_width!(lie.0, W => {
        py.detach(|| wide::count::<W>(base, &shape, counts));
        Ok(())
    })
}

/// sort(raw, base, lie, counts, trend, ordered)
#[pyfunction]
fn sort(
    py: Python<'_>,
    raw: PyBuffer<u8>,
    base: PyBuffer<u8>,
    lie: Lie,
    counts: PyBuffer<u8>,
    trend: Option<Given>,
    mut ordered: PyBuffer<u8>,
) -> PyResult<()> {
    apart(&[&raw, &base, &counts], &[&ordered])?;
    let (raw, base) = (source(&raw)?, source(&base)?);
    let shape = with_kinds(shape_of(&lie, base)?, &lie, base)?;
    let (counts, trend) = (typed::<u32>(source(&counts)?)?, trend_of(&trend)?);
    let ordered = target(&mut ordered)?;
    if raw.len() != base.len() || ordered.len() != base.len() {
        return Err(wrong("the buffers are not of one length"));
    }
    by_width!(lie.0, W => {
        let ordered = typed_mut::<W>(ordered)?;
        py.detach(|| wide::sort::<W>(raw, base, &shape, counts, trend, ordered)).map_err(wrong)
    })
}

/// unsort(ordered, base, lie, counts, trend) -> bytes
#[pyfunction]
fn unsort<'py>(
    py: Python<'py>,
    ordered: PyBuffer<u8>,
    base: PyBuffer<u8>,
    lie: Lie,
    counts: PyBuffer<u8>,
    trend: Option<Given>,
) -> PyResult<Bound<'py, PyBytes>> {
    let (ordered, base) = (source(&ordered)?, source(&base)?);
    let shape = with_kinds(shape_of(&lie, base)?, &lie, base)?;
    let (counts, trend) = (typed::<u32>(source(&counts)?)?, trend_of(&trend)?);
    if ordered.len() != base.len() {
        return Err(wrong("the buffers are not of one length"));
    }
    by_width!(lie.0, W => {
        let ordered = typed::<W>(ordered)?;
        filled(py, base.len(), |raw| wide::unsort::<W>(ordered, base, &shape, counts, trend, raw))
    })
}

/// choose_modes(ordered, width, lengths, plogp, modes)
#[pyfunction]
fn choose_modes(
    py: Python<'_>,
    ordered: PyBuffer<u8>,
    width: usize,
    lengths: PyBuffer<u8>,
    plogp: PyBuffer<u8>,
    mut modes: PyBuffer<u8>,
) -> PyResult<()> {
    apart(&[&ordered, &lengths, &plogp], &[&modes])?;
    let (ordered, lengths) = (source(&ordered)?, typed::<u32>(source(&lengths)?)?);
    let (plogp, modes) = (typed::<i64>(source(&plogp)?)?, target(&mut modes)?);
    by_width!(width, W => {
        let ordered = typed::<W>(ordered)?;
        py.detach(|| wide::choose_modes::<W>(ordered, lengths, plogp, modes)).map_err(wrong)
    })
}

/// pack(ordered, width, lengths, modes, symbols, low) -> (escapes, far)
#[pyfunction]
fn pack<'py>(
    py: Python<'py>,
    ordered: PyBuffer<u8>,
    width: usize,
    lengths: PyBuffer<u8>,
    modes: PyBuffer<u8>,
    mut symbols: PyBuffer<u8>,
    mut low: PyBuffer<u8>,
) -> PyResult<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
    apart(&[&ordered, &lengths, &modes], &[&symbols, &low])?;
    let (ordered, lengths, modes) = (source(&ordered)?, typed::<u32>(source(&lengths)?)?, source(&modes)?);
    let (symbols, low) = (target(&mut symbols)?, target(&mut low)?);
    by_width!(width, W => {
        let ordered = typed::<W>(ordered)?;
        let (escapes, far) =
            py.detach(|| wide::pack::<W>(ordered, lengths, modes, symbols, low)).map_err(wrong)?;
        Ok((PyBytes::new(py, &escapes), PyBytes::new(py, &far)))
    })
}

/// unpack(symbols, low, escapes, far, width, lengths, modes, ordered)
#[pyfunction]
#[allow(clippy::too_many_arguments)]
fn unpack(
    py: Python<'_>,
    symbols: PyBuffer<u8>,
    low: PyBuffer<u8>,
    escapes: PyBuffer<u8>,
    far: PyBuffer<u8>,
    width: usize,
    lengths: PyBuffer<u8>,
    modes: PyBuffer<u8>,
    mut ordered: PyBuffer<u8>,
) -> PyResult<()> {
    apart(&[&symbols, &low, &escapes, &far, &lengths, &modes], &[&ordered])?;
    let (symbols, low, escapes, far) = (source(&symbols)?, source(&low)?, source(&escapes)?, source(&far)?);
    let (lengths, modes) = (typed::<u32>(source(&lengths)?)?, source(&modes)?);
    let ordered = target(&mut ordered)?;
    by_width!(width, W => {
        let ordered = typed_mut::<W>(ordered)?;
        py.detach(|| wide::unpack::<W>(symbols, low, escapes, far, lengths, modes, ordered)).map_err(wrong)
    })
}

/// rounded(words, width, product, out): see `floats::rounded`.
#[pyfunction]
fn rounded(
    py: Python<'_>,
    words: PyBuffer<u8>,
    width: usize,
    product: PyBuffer<u8>,
    mut out: PyBuffer<u8>,
) -> PyResult<()> {
    apart(&[&words, &product], &[&out])?;
    let (words, product, out) = (source(&words)?, typed::<f64>(source(&product)?)?, target(&mut out)?);
    if !matches!(width, 2 | 4) || product.len().checked_mul(width) != Some(words.len()) || out.len() != words.len() {
        return Err(wrong("the buffers are not of one length"));
    }
    py.detach(|| match width {
        2 => wide::rounded::<u16>(words, product, out),
        _ => wide::rounded::<u32>(words, product, out),
    });
    Ok(())
}

/// difference(after, before, width, out) -> sum of squares; `out` receives float32 for words of two bytes, else float64.
#[pyfunction]
fn difference(
    py: Python<'_>,
    after: PyBuffer<u8>,
    before: PyBuffer<u8>,
    width: usize,
    mut out: PyBuffer<u8>,
) -> PyResult<f64> {
    apart(&[&after, &before], &[&out])?;
    let (after, before, out) = (source(&after)?, source(&before)?, target(&mut out)?);
    if !matches!(width, 2 | 4)
        || after.len() % width != 0
        || after.len() != before.len()
        || after.len().checked_mul(2) != Some(out.len())
    {
        return Err(wrong("the buffers are not of one length"));
    }
    if width == 2 {
        let out = typed_mut::<f32>(out)?;
        Ok(py.detach(|| wide::difference::<u16>(after, before, out)))
    } else {
        let out = typed_mut::<f64>(out)?;
        Ok(py.detach(|| wide::difference::<u32>(after, before, out)))
    }
}

/// narrow(bits) -> bits: use no wider registers from now on; see `wide::narrow`.
#[pyfunction]
fn narrow(bits: u32) -> u32 {
    wide::narrow(bits)
}

#[pymodule]
fn understudy_native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    // The form of the calls; the Python side uses no other one.
    module.add("INTERFACE", 3)?;
    module.add_function(wrap_pyfunction!(split, module)?)?;
    module.add_function(wrap_pyfunction!(join, module)?)?;
    module.add_function(wrap_pyfunction!(join_pairs, module)?)?;
    module.add_function(wrap_pyfunction!(pair, module)?)?;
    module.add_function(wrap_pyfunction!(unpair, module)?)?;
    module.add_function(wrap_pyfunction!(survey, module)?)?;
    module.add_function(wrap_pyfunction!(count, module)?)?;
    module.add_function(wrap_pyfunction!(sort, module)?)?;
    module.add_function(wrap_pyfunction!(unsort, module)?)?;
    module.add_function(wrap_pyfunction!(choose_modes, module)?)?;
    module.add_function(wrap_pyfunction!(pack, module)?)?;
    module.add_function(wrap_pyfunction!(unpack, module)?)?;
    module.add_function(wrap_pyfunction!(rounded, module)?)?;
    module.add_function(wrap_pyfunction!(difference, module)?)?;
    module.add_function(wrap_pyfunction!(narrow, module)?)?;
    Ok(())
}
