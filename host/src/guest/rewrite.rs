//! A component written anew, with other content in the place of some of its sections.

use std::borrow::Cow;

use wasm_encoder::Encode;
use wasmparser::{BinaryReaderError, Encoding, Parser, Payload};

const CORE_MODULE_SECTION: u8 = 1;
const COMPONENT_SECTION: u8 = 4;

/// Writes a component or a module with the content that `replace` gives for each section,
/// of whatever is nested in it, too; without the sections for which it gives none.
pub(crate) fn sections<'a>(
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
