//! C2SP tlog-tiles: the tree and its entries as static files of 256 each, and the way back from files to hashes.

use super::checkpoint::Checkpoint;
use super::note::Note;
use super::publish::checkpoint_file;
use super::{TLOG_DIR, parse_decimal};
use crate::disk::Disk;
use crate::merkle::{self, Frontier, Hash, Subtrees, leaf_hash};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::str::FromStr;

/// Hashes or entries in a full tile.
pub const TILE_WIDTH: u64 = 256;
const TILE_HEIGHT: u32 = 8;
const HASH_BYTES: usize = 32;
/// 2^64 entries need no higher one.
const LEVELS_MAX: u8 = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Hashes of complete subtrees of 256^level entries.
    Hashes {
        level: u8,
    },
    Entries,
}

/// `Display` and `FromStr` are its path below the log's prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tile {
    pub kind: Kind,
    pub index: u64,
    /// 1 to 256; below 256 the tile is partial.
    pub width: u16,
}

impl Tile {
    pub fn is_full(&self) -> bool {
        u64::from(self.width) == TILE_WIDTH
    }

    /// The entries that it is over.
    pub fn entries(&self) -> std::ops::Range<u64> {
        let each = TILE_HEIGHT * u32::from(self.level());
        let first = (self.index * TILE_WIDTH) << each;
        first..first + (u64::from(self.width) << each)
    }

    /// Whether a log of `size` has this very tile.
    pub fn is_of(&self, size: u64) -> bool {
        Self::of(self.kind, self.index, size) == Some(*self)
    }

    /// Where it lies in the ledger's directory.
    pub fn file(&self) -> String {
        format!("{TLOG_DIR}/{self}")
    }

    /// Holds the partial tiles with this index.
    fn partials_dir(&self) -> String {
        let full = Self {
            width: TILE_WIDTH as u16,
            ..*self
        };
        format!("{}.p", full.file())
    }

    fn level(&self) -> u8 {
        match self.kind {
            Kind::Hashes { level } => level,
            Kind::Entries => 0,
        }
    }

    /// The tile with this index as it is in a log of `size`; none when it is not there.
    fn of(kind: Kind, index: u64, size: u64) -> Option<Self> {
        let tile = Self { kind, index, width: 0 };
        let whole = size >> (TILE_HEIGHT * u32::from(tile.level()));
        let width = whole.checked_sub(index * TILE_WIDTH)?.min(TILE_WIDTH) as u16;
        (width > 0).then_some(Self { width, ..tile })
    }
}

impl fmt::Display for Tile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Hashes { level } => write!(f, "tile/{level}")?,
            Kind::Entries => f.write_str("tile/entries")?,
        }
        let digits = self.index.to_string();
        let groups = digits.len().div_ceil(3);
        let padded = format!("{:0>width$}", digits, width = groups * 3);
        for group in 0..groups {
            let last = group + 1 == groups;
            write!(f, "/{}{}", if last { "" } else { "x" }, &padded[group * 3..group * 3 + 3])?;
        }
        if self.is_full() {
            Ok(())
        } else {
            write!(f, ".p/{}", self.width)
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is not the path of a tile")]
pub struct NotATile;

impl FromStr for Tile {
    type Err = NotATile;

    fn from_str(path: &str) -> Result<Self, NotATile> {
        let rest = path.strip_prefix("tile/").ok_or(NotATile)?;
        let (kind, rest) = rest.split_once('/').ok_or(NotATile)?;
        let kind = match kind {
            "entries" => Kind::Entries,
            level => Kind::Hashes {
                level: parse_decimal(level).filter(|level| *level < 64).ok_or(NotATile)? as u8,
            },
        };
        let (digits, width) = match rest.split_once(".p/") {
            None => (rest, TILE_WIDTH),
            Some((digits, width)) => {
                let width = parse_decimal(width).filter(|width| (1..TILE_WIDTH).contains(width));
                (digits, width.ok_or(NotATile)?)
            }
        };
        let index = digits
            .replace("/x", "")
            .replace(['/', 'x'], "")
            .parse()
            .map_err(|_| NotATile)?;
        let tile = Self {
            kind,
            index,
            width: width as u16,
        };
        // One tile, one path.
        if tile.to_string() == path { Ok(tile) } else { Err(NotATile) }
    }
}

/// The partial tiles of a log of `size`: at most one of each kind.
fn edge(size: u64) -> impl Iterator<Item = Tile> {
    let levels = (0..LEVELS_MAX).map(|level| Kind::Hashes { level });
    levels.chain([Kind::Entries]).filter_map(move |kind| {
        let level = if let Kind::Hashes { level } = kind { level } else { 0 };
        let whole = size >> (TILE_HEIGHT * u32::from(level));
        Tile::of(kind, whole / TILE_WIDTH, size)
    })
}

/// Tiles that a log of `to` has and a log of `from` has not.
pub fn added(from: u64, to: u64) -> impl Iterator<Item = Tile> {
    let kinds = (0..LEVELS_MAX).map(|level| Kind::Hashes { level }).chain([Kind::Entries]);
    kinds.flat_map(move |kind| {
        let level = if let Kind::Hashes { level } = kind { level } else { 0 };
        let first = (from >> (TILE_HEIGHT * u32::from(level))) / TILE_WIDTH;
        (first..)
            .map_while(move |index| Tile::of(kind, index, to))
            .filter(move |tile| {
                let before = Tile::of(kind, tile.index, from);
                before != Some(*tile)
            })
    })
}

/// Makes tiles from entries as they come, from any size on.
#[derive(Debug, Clone, Default)]
pub struct Builder {
    frontier: Frontier,
    /// The hashes of each level's last, partial tile.
    levels: Vec<Vec<u8>>,
    bundle: Vec<u8>,
}

impl Builder {
    pub fn size(&self) -> u64 {
        self.frontier.size()
    }

    pub fn root(&self) -> Hash {
        self.frontier.root()
    }

    /// Gives each tile that the entry fills. Entries are at most 65,535 bytes.
    pub fn push<E>(&mut self, entry: &[u8], leaf: Hash, emit: impl FnMut(Tile, &[u8]) -> Result<(), E>) -> Result<(), E> {
        self.bundle.extend_from_slice(&(entry.len() as u16).to_be_bytes());
        self.bundle.extend_from_slice(entry);
        self.push_leaf(leaf, emit)
    }

    /// An entry of which only the hash is known: what is emitted of its bundle is not to be used.
    pub fn push_leaf<E>(&mut self, leaf: Hash, mut emit: impl FnMut(Tile, &[u8]) -> Result<(), E>) -> Result<(), E> {
        self.frontier.push(leaf);
        let mut hash = leaf;
        for level in 0..LEVELS_MAX {
            if self.levels.len() <= usize::from(level) {
                self.levels.push(Vec::new());
            }
            let hashes = &mut self.levels[usize::from(level)];
            hashes.extend_from_slice(&hash);
            if hashes.len() < TILE_WIDTH as usize * HASH_BYTES {
                break;
            }
            let index = (self.frontier.size() >> (TILE_HEIGHT * (u32::from(level) + 1))) - 1;
            let tile = Tile {
                kind: Kind::Hashes { level },
                index,
                width: TILE_WIDTH as u16,
            };
            let hashes = std::mem::take(hashes);
            emit(tile, &hashes)?;
            if level == 0 {
                emit(
                    Tile {
                        kind: Kind::Entries,
                        ..tile
                    },
                    &self.bundle,
                )?;
                self.bundle.clear();
            }
            hash = merkle::root(&hashes_of(&hashes));
        }
        Ok(())
    }

    /// The partial tiles of a log that ends here.
    pub fn partials<E>(&self, mut emit: impl FnMut(Tile, &[u8]) -> Result<(), E>) -> Result<(), E> {
        for tile in edge(self.size()) {
            match tile.kind {
                Kind::Hashes { level } => emit(tile, &self.levels[usize::from(level)])?,
                Kind::Entries => emit(tile, &self.bundle)?,
            }
        }
        Ok(())
    }

    /// As it was when the log had `size`. None when a file is missing or not whole. That the hashes are the log's is for
    /// `root` to say.
    pub fn restore<D: Disk>(disk: &D, size: u64) -> io::Result<Option<Self>> {
        let mut builder = Self::default();
        let mut peaks = Vec::new();
        for tile in edge(size) {
            let Some(bytes) = read(disk, &tile)? else { return Ok(None) };
            match tile.kind {
                Kind::Hashes { level } => {
                    builder.levels.resize(usize::from(level) + 1, Vec::new());
                    builder.levels[usize::from(level)] = bytes;
                }
                Kind::Entries => builder.bundle = bytes,
            }
        }
        let leaves = builder.levels.first().map(|level| hashes_of(level)).unwrap_or_default();
        let entries = split_bundle(&builder.bundle, leaves.len() as u16).unwrap_or_default();
        if !entries.iter().map(|entry| leaf_hash(entry)).eq(leaves) {
            return Ok(None);
        }
        for level in builder.levels.iter().rev() {
            let mut rest = &hashes_of(level)[..];
            while !rest.is_empty() {
                let (peak, after) = rest.split_at(1 << rest.len().ilog2());
                peaks.push(merkle::root(peak));
                rest = after;
            }
        }
        Ok(Frontier::restore(size, peaks).map(|frontier| Self { frontier, ..builder }))
    }
}

pub fn hashes_of(bytes: &[u8]) -> Vec<Hash> {
    bytes
        .chunks_exact(HASH_BYTES)
        .filter_map(|hash| hash.try_into().ok())
        .collect()
}

/// Splits a bundle into its entries; none when it is not made of `count` whole ones.
pub fn split_bundle(bundle: &[u8], count: u16) -> Option<Vec<&[u8]>> {
    let mut rest = bundle;
    let mut entries = Vec::with_capacity(usize::from(count));
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let (entry, after) = after.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        entries.push(entry);
        rest = after;
    }
    (rest.is_empty() && entries.len() == usize::from(count)).then_some(entries)
}

/// A tile's bytes. A partial tile may have gone when the full one came: then these are the beginning of that.
pub fn read<D: Disk>(disk: &D, tile: &Tile) -> io::Result<Option<Vec<u8>>> {
    read_by(|tile| disk.read(&tile.file()), tile)
}

/// The same, wherever tiles lie.
pub fn read_by(read: impl Fn(&Tile) -> io::Result<Option<Vec<u8>>>, tile: &Tile) -> io::Result<Option<Vec<u8>>> {
    let full = Tile {
        width: TILE_WIDTH as u16,
        ..*tile
    };
    let bytes = match read(tile)? {
        None if !tile.is_full() => read(&full)?.map(|bytes| first_of(tile, bytes, full.width)),
        found => found.map(|bytes| first_of(tile, bytes, tile.width)),
    };
    Ok(bytes.flatten())
}

/// The beginning of `bytes`, a tile of `width`, that `tile` holds; none when they are no such tile.
fn first_of(tile: &Tile, mut bytes: Vec<u8>, width: u16) -> Option<Vec<u8>> {
    let keep = match tile.kind {
        Kind::Hashes { .. } => {
            let is_whole = bytes.len() == usize::from(width) * HASH_BYTES;
            is_whole.then_some(usize::from(tile.width) * HASH_BYTES)?
        }
        Kind::Entries => {
            let entries = split_bundle(&bytes, width)?;
            entries
                .iter()
                .take(usize::from(tile.width))
                .map(|entry| entry.len() + 2)
                .sum()
        }
    };
    bytes.truncate(keep);
    Some(bytes)
}

/// Whether every full tile of a log of `size` is there in its length. What it says is for `verify` to check.
/// Bundles of entries below `bundles_from` need not be there.
pub fn are_whole<D: Disk>(disk: &D, size: u64, bundles_from: u64) -> io::Result<bool> {
    let is_needed = |tile: &Tile| tile.kind != Kind::Entries || tile.entries().end > bundles_from;
    for tile in added(0, size).filter(Tile::is_full).filter(is_needed) {
        let length = disk.len(&tile.file())?;
        let is_whole = match tile.kind {
            Kind::Hashes { .. } => length == Some(TILE_WIDTH * HASH_BYTES as u64),
            Kind::Entries => length.is_some_and(|length| length > TILE_WIDTH * 2),
        };
        if !is_whole {
            return Ok(false);
        }
    }
    Ok(true)
}

/// So far tiles should go. Not to be believed: what they say is to be checked against a root.
pub fn published_size<D: Disk>(disk: &D) -> u64 {
    let bytes = disk.read(&checkpoint_file()).ok().flatten().unwrap_or_default();
    let note = Note::parse(&bytes).ok();
    note.and_then(|note| Checkpoint::parse(&note.text).ok())
        .map_or(0, |checkpoint| checkpoint.size)
}

/// Removes the partial tiles that a full one replaces.
pub fn remove_partials<D: Disk>(disk: &D, full: &Tile) -> io::Result<()> {
    disk.remove_dir(&full.partials_dir())
}

#[derive(Debug, thiserror::Error)]
pub enum TileError {
    #[error("tile {0} is missing, or not whole")]
    Missing(Tile),
    #[error("reading tile {tile}")]
    Read { tile: Tile, source: io::Error },
}

/// Complete subtrees out of the tiles of a log of `size`. Tiles are read once.
pub struct Tiles<D> {
    disk: D,
    size: u64,
    read: RefCell<BTreeMap<Tile, Vec<Hash>>>,
}

impl<D: Disk> Tiles<D> {
    pub fn new(disk: D, size: u64) -> Self {
        Self {
            disk,
            size,
            read: RefCell::default(),
        }
    }

    pub fn size(&self) -> u64 {
        self.size
    }
}

impl<D: Disk> Subtrees for Tiles<D> {
    type Error = TileError;

    fn subtree(&self, level: u32, index: u64) -> Result<Hash, TileError> {
        let kind = Kind::Hashes {
            level: (level / TILE_HEIGHT) as u8,
        };
        let inner = level % TILE_HEIGHT;
        let first = index << inner;
        let none = Tile {
            kind,
            index: first / TILE_WIDTH,
            width: 0,
        };
        let tile = Tile::of(kind, first / TILE_WIDTH, self.size).ok_or(TileError::Missing(none))?;
        let mut read_tiles = self.read.borrow_mut();
        let hashes = match read_tiles.entry(tile) {
            std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::btree_map::Entry::Vacant(unknown) => {
                let bytes = read(&self.disk, &tile).map_err(|source| TileError::Read { tile, source })?;
                unknown.insert(hashes_of(&bytes.ok_or(TileError::Missing(tile))?))
            }
        };
        let at = (first % TILE_WIDTH) as usize;
        let inside = hashes.get(at..at + (1 << inner)).ok_or(TileError::Missing(tile))?;
        Ok(merkle::root(inside))
    }
}
