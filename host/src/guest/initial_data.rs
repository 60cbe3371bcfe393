//! A guest's initial data, taken out of its module: see `memory::image` for the reason.

use anyhow::{Context, Result};
use wasm_encoder::Encode;
use wasmparser::{BinaryReaderError, DataKind, DataSectionReader, Operator, Parser, Payload, TypeRef};

use super::rewrite;
use crate::memory::image::Image;

/// Changes with what is taken out of a guest.
pub(crate) const VERSION: u32 = 2;

/// The initial data of a component, as it is there: what `without_data` leaves of the
/// component behaves the same in memory that begins as the image of it.
pub(crate) struct Data<'a> {
    /// Of the memory.
    bytes: usize,
    /// Each with its offset.
    segments: Vec<(usize, &'a [u8])>,
}

impl Data<'_> {
    pub(crate) fn image(&self) -> Result<Image> {
        Image::new(self.bytes, &self.segments).context("no memory for the guest's initial data")
    }
}

/// Where an instance has its initial data from. `T` is what was taken out of the guest.
pub(crate) enum InitialData<T> {
    /// It is little: wasmtime copies it.
    Small,
    /// It is no longer in the code: memories begin with it.
    Taken(T),
    /// It is in the code, and wasmtime's own pool maps it copy-on-write.
    Mapped,
}

impl<'a> InitialData<Data<'a>> {
    /// That of a guest, which may be little.
    pub(crate) fn of(guest: &'a [u8], is_small: bool) -> Result<InitialData<Data<'a>>, BinaryReaderError> {
        if is_small {
            return Ok(InitialData::Small);
        }
        Ok(find(guest)?.map_or(InitialData::Mapped, InitialData::Taken))
    }
}

impl<T> InitialData<T> {
    pub(crate) fn taken(&self) -> Option<&T> {
        match self {
            InitialData::Taken(taken) => Some(taken),
            InitialData::Small | InitialData::Mapped => None,
        }
    }

    pub(crate) fn is_mapped(&self) -> bool {
        matches!(self, InitialData::Mapped)
    }

    pub(crate) fn as_ref(&self) -> InitialData<&T> {
        match self {
            InitialData::Small => InitialData::Small,
            InitialData::Taken(taken) => InitialData::Taken(taken),
            InitialData::Mapped => InitialData::Mapped,
        }
    }

    /// The same, with what is made of what was taken.
    pub(crate) fn try_map<U, E>(self, make: impl FnOnce(T) -> Result<U, E>) -> Result<InitialData<U>, E> {
        Ok(match self {
            InitialData::Small => InitialData::Small,
            InitialData::Taken(taken) => InitialData::Taken(make(taken)?),
            InitialData::Mapped => InitialData::Mapped,
        })
    }
}

/// The initial data, if it can be had in advance: it can if one module has all memory and
/// all data, at constant places, so that no other module sees the memory before its
/// data is there.
pub(crate) fn find(component: &[u8]) -> Result<Option<Data<'_>>, BinaryReaderError> {
    let mut memory = None;
    let mut segments = Vec::new();
    // The memory belongs to the module whose sections are being read, as number 0.
    let (mut is_here, mut imports_memory) = (false, false);
    for payload in Parser::new(0).parse_all(component) {
        match payload? {
            Payload::Version { .. } | Payload::End(_) => (is_here, imports_memory) = (false, false),
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    imports_memory |= matches!(import?.ty, TypeRef::Memory(_));
                }
            }
            Payload::MemorySection(memories) => {
                for defined in memories {
                    let defined = defined?;
                    let is_plain = !defined.memory64 && !defined.shared && defined.page_size_log2.is_none();
                    if memory.is_some() || !is_plain {
                        return Ok(None);
                    }
                    memory = Some((defined.initial as usize) << 16);
                    is_here = !imports_memory;
                }
            }
            Payload::DataSection(data) => {
                for segment in data {
                    let segment = segment?;
                    let DataKind::Active { memory_index, .. } = segment.kind else { continue };
                    let offset = offset(&segment)?.filter(|_| is_here && memory_index == 0);
                    let Some(offset) = offset else { return Ok(None) };
                    segments.push((offset, segment.data));
                }
            }
            _ => {}
        }
    }
    let Some(bytes) = memory else { return Ok(None) };
    // One that does not fit makes each instance fail; wasmtime says that.
    let fits = |(offset, data): &(usize, &[u8])| offset + data.len() <= bytes;
    Ok(segments.iter().all(fits).then_some(Data { bytes, segments }))
}

/// Where an active segment goes, if its module says so with a constant.
fn offset(segment: &wasmparser::Data<'_>) -> Result<Option<usize>, BinaryReaderError> {
    let DataKind::Active { offset_expr, .. } = &segment.kind else { return Ok(None) };
    let mut operators = offset_expr.get_operators_reader();
    let constant = match operators.read()? {
        Operator::I32Const { value } => value as u32 as usize,
        _ => return Ok(None),
    };
    Ok(matches!(operators.read()?, Operator::End).then_some(constant))
}

/// What there is code of: the component with empty, passive segments in the place of its active
/// ones, and without what tools have noted in it, but for the names that a backtrace has.
pub(crate) fn without_data(component: &[u8]) -> Result<Vec<u8>, BinaryReaderError> {
    rewrite::sections(component, |payload, content| match payload {
        Payload::DataSection(data) => Ok(Some(emptied(data.clone())?.into())),
        Payload::CustomSection(section) if section.name() != "name" => Ok(None),
        _ => Ok(Some(content.into())),
    })
}

const PASSIVE: u8 = 1;

/// A data section's content. Segments keep their numbers, and passive ones their bytes.
pub(crate) fn emptied(data: DataSectionReader<'_>) -> Result<Vec<u8>, BinaryReaderError> {
    let mut content = Vec::new();
    data.count().encode(&mut content);
    for segment in data {
        let segment = segment?;
        let kept = match segment.kind {
            DataKind::Passive => segment.data,
            // Empty is what an active one is once its module is instantiated.
            DataKind::Active { .. } => &[],
        };
        content.push(PASSIVE);
        kept.encode(&mut content);
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(text: &str) -> Option<(Vec<u8>, Image)> {
        let component = wat::parse_str(text).unwrap();
        let image = find(&component).unwrap()?.image().unwrap();
        let left = without_data(&component).unwrap();
        wasmparser::Validator::new().validate_all(&left).unwrap();
        Some((left, image))
    }

    #[test]
    fn the_data_is_in_the_image_and_no_longer_in_the_component() {
        let (left, image) = taken(
            r#"(component
                (core module $user (import "m" "memory" (memory 1)) (func nop))
                (component (core module $owner
                    (memory (export "memory") 2)
                    (func (memory.init 1 (i32.const 0) (i32.const 0) (i32.const 7)))
                    (data (i32.const 3) "abcdef")
                    (data "passive")
                    (data (i32.const 131071) "g")
                    (data (i32.const 5) "XY"))))"#,
        )
        .unwrap();
        let content = image.content();
        assert_eq!(content.len(), 2 << 16);
        assert_eq!(&content[..10], b"\0\0\0abXYef\0");
        assert_eq!(content[131_071], b'g');
        let has = |bytes: &[u8]| left.windows(bytes.len()).any(|window| window == bytes);
        assert!(has(b"passive") && !has(b"abcdef"));
        assert!(find(&left).unwrap().unwrap().segments.is_empty());
    }

    #[test]
    fn data_whose_place_or_time_is_not_certain_stays() {
        for modules in [
            // Two memories.
            r#"(core module (memory 1) (data (i32.const 0) "a")) (core module (memory 1))"#,
            r#"(core module (memory 1) (memory 1) (data (i32.const 0) "a"))"#,
            // Another module's memory.
            r#"(core module (memory (export "m") 1))
               (core module (import "m" "m" (memory 1)) (data (i32.const 0) "a"))"#,
            r#"(core module (import "m" "m" (memory 1)) (memory 1) (data (i32.const 0) "a"))"#,
            // A place that is known only to the instance.
            r#"(core module (import "m" "g" (global i32)) (memory 1) (data (global.get 0) "a"))"#,
            // A place outside.
            r#"(core module (memory 1) (data (i32.const 65535) "ab"))"#,
            r#"(core module (memory 1) (data (i32.const -1) "a"))"#,
            // Sizes and sharing that `memories` does not have.
            r#"(core module (memory i64 1) (data (i64.const 0) "a"))"#,
            r#"(core module (memory 1 1 shared) (data (i32.const 0) "a"))"#,
            // None at all.
            "(core module)",
        ] {
            assert!(taken(&format!("(component {modules})")).is_none(), "{modules}");
        }
    }
}
