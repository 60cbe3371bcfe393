//! The address space of one memory, in one of two ways.

use std::fs::File;
use std::io;
use std::sync::Arc;

use super::image::Image;
use super::mapping::Mapping;
use super::views::Views;

/// How memories are made.
#[derive(Clone)]
pub enum Kind {
    /// They stay where they are when they grow. Those of its size begin as the image; others,
    /// and all without it, are zeros.
    InPlace(Option<Arc<Image>>),
    /// They move when they grow.
    InViews,
}

impl Kind {
    /// The same for memories that stay.
    pub(super) fn in_place(&self) -> Kind {
        match self {
            Kind::InPlace(image) => Kind::InPlace(image.clone()),
            Kind::InViews => Kind::InPlace(None),
        }
    }
}

pub(super) enum Space {
    Mapping(Mapping),
    Views(Views),
}

impl Space {
    pub(super) fn new(kind: &Kind, bytes: usize, reserved: usize, guard: usize) -> io::Result<Space> {
        let image = match kind {
            Kind::InPlace(image) => image.as_ref(),
            Kind::InViews => {
                // There may be no descriptor for one more. What may move need not.
                if let Ok(views) = Views::new(bytes, reserved, guard) {
                    return Ok(Space::Views(views));
                }
                None
            }
        };
        Ok(Space::Mapping(Mapping::new(bytes, reserved, guard, image)?))
    }

    /// Whether it can be the memory of an instance that begins with so many bytes.
    pub(super) fn fits(&self, bytes: usize, reserved: usize, guard: usize) -> bool {
        match self {
            Space::Mapping(mapping) => mapping.fits(bytes, reserved, guard),
            Space::Views(views) => views.fits(bytes, reserved, guard),
        }
    }

    pub(super) fn moves(&self) -> bool {
        matches!(self, Space::Views(_))
    }

    pub(super) fn start(&self) -> *mut u8 {
        match self {
            Space::Mapping(mapping) => mapping.start(),
            Space::Views(views) => views.start(),
        }
    }

    /// Bytes that are accessible.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Space::Mapping(mapping) => mapping.bytes_accessible,
            Space::Views(views) => views.bytes(),
        }
    }

    /// Bytes up to which it stays where it is.
    pub(super) fn capacity(&self) -> usize {
        match self {
            Space::Mapping(mapping) => mapping.bytes_reserved,
            Space::Views(views) => views.bytes(),
        }
    }

    pub(super) fn grow(&mut self, bytes: usize) -> io::Result<()> {
        match self {
            Space::Mapping(mapping) => mapping.grow(bytes),
            Space::Views(views) => views.grow(bytes),
        }
    }

    /// Makes it what it was at the beginning, of so many bytes. An error, or false, if it serves no
    /// further instance.
    pub(super) fn clear(&mut self, bytes: usize, pagemap: Option<&File>) -> io::Result<bool> {
        match self {
            Space::Mapping(mapping) => {
                mapping.clear(pagemap)?;
                mapping.cut(bytes)?;
                Ok(true)
            }
            Space::Views(views) => views.clear(),
        }
    }
}
