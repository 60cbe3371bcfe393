//! A component written anew, with other content in the place of some of its sections.

use std::borrow::Cow;

use wasm_encoder::Encode;
use wasmparser::{BinaryReaderError, DataKind, DataSectionReader, Encoding, Parser, Payload};

const CORE_MODULE_SECTION: u8 = 1;
const COMPONENT_SECTION: u8 = 4;

/// A function body without locals that traps, with its size; it is valid for every type.
const TRAP: [u8; 4] = [3, 0, 0x00, 0x0b];

/// Writes a component or a module with the content that `replace` gives for each section,
/// of whatever is nested in it, too; without the sections for which it gives none.
pub fn sections<'a>(
    component: &'a [u8],
    replace: impl Fn(&Payload<'a>, &'a [u8]) -> Result<Option<Cow<'a, [u8]>>, BinaryReaderError>,
) -> Result<Vec<u8>, BinaryReaderError> {
    // The innermost component or module that is being read comes last.
    let mut nested = Vec::new();
    for payload in Parser::new(0).parse_all(component) {
        let payload = payload?;
        match &payload {
            Payload::Version { encoding, range, .. } => {
                nested.push((*encoding, component[range.clone()].to_vec()));
            }
            Payload::End(_) => {
                let Some((encoding, done)) = nested.pop() else { break };
                let Some((_, outer)) = nested.last_mut() else { return Ok(done) };
                outer.push(match encoding {
                    Encoding::Module => CORE_MODULE_SECTION,
                    Encoding::Component => COMPONENT_SECTION,
                });
                done.encode(outer);
            }
            // Their content follows, payload by payload.
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => {}
            _ => {
                let Some((id, range)) = payload.as_section() else { continue };
                let Some((_, current)) = nested.last_mut() else { break };
                // The reader's next word is that the end is missing.
                let Some(content) = component.get(range) else { continue };
                if let Some(content) = replace(&payload, content)? {
                    current.push(id);
                    content.encode(current);
                }
            }
        }
    }
    unreachable!("the reader ends with the end of the outermost component")
}

/// The same component on the outside, and in its types, memories and tables; but each
/// function only traps, and there is no initial data. It compiles in no time.
pub fn outline(component: &[u8]) -> Result<Vec<u8>, BinaryReaderError> {
    sections(component, |payload, content| {
        Ok(match payload {
            Payload::CustomSection(_) => None,
            Payload::DataSection(data) => Some(emptied(data.clone())?.into()),
            Payload::CodeSectionStart { count, .. } => Some(traps(*count).into()),
            _ => Some(content.into()),
        })
    })
}

/// The content of a code section with so many functions.
fn traps(count: u32) -> Vec<u8> {
    let mut content = Vec::new();
    count.encode(&mut content);
    content.extend((0..count).flat_map(|_| TRAP));
    content
}

const PASSIVE: u8 = 1;

/// A data section's content. Segments keep their numbers, and passive ones their bytes.
pub fn emptied(data: DataSectionReader<'_>) -> Result<Vec<u8>, BinaryReaderError> {
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
