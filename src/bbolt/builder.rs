//! A file from its keys, page by page.
//!
//! Buckets are added one after the other, and the keys of each in order. A page is given out as soon as it is
//! full, and a branch right behind the last page below it. So pages come in the order of the file, and of
//! each level of the tree no more than one page is kept. Where the root will be follows from the lengths alone:
//! whoever has to know it first, for the meta pages at the beginning, lays out the same lengths twice, the first time
//! with [`Counted`].

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};

use super::format::{
    BRANCH, BUCKET_HEADER_BYTES, ELEMENT_BYTES, FREELIST, IS_BUCKET, LEAF, Meta, PAGE_HEADER_BYTES,
    PageHeader,
};

/// The meta pages and the free list.
const PAGES_BEFORE: u64 = 3;
const FREELIST_PAGE: u64 = 2;
/// A page has no more elements than its header can count, less a margin.
const ELEMENTS_MAX: usize = 0xFF00;
/// bbolt removes keys on the assumption that every branch has two pages below it.
const BRANCH_ELEMENTS_MIN: usize = 2;

/// What becomes of the pages.
pub(crate) trait Output {
    /// A key or a value, or what is known of it.
    type Part: Clone;

    fn part(bytes: Bytes) -> Self::Part;

    fn length(part: &Self::Part) -> usize;

    /// The name of a bucket.
    fn name(name: &'static str) -> Self::Part;

    /// The value that stands for a bucket in the root tree.
    fn bucket(root: u64) -> Self::Part;

    /// The same for a bucket that is its only leaf.
    fn inline_bucket(leaf: &[Element<Self::Part>], bytes: usize) -> Self::Part;

    fn page(&mut self, page: NewPage<'_, Self::Part>);
}

/// A page that is full.
pub(crate) struct NewPage<'e, P> {
    id: u64,
    elements: &'e [Element<P>],
    /// Its length, in whole pages.
    bytes: usize,
    page_bytes: usize,
}

/// An element of a leaf or of a branch.
#[derive(Clone, Debug)]
pub(crate) struct Element<P> {
    key: P,
    target: Target<P>,
}

#[derive(Clone, Debug)]
enum Target<P> {
    Value(P),
    Bucket(P),
    Page(u64),
}

/// How a file is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    page_bytes: usize,
    /// All of them.
    pages: u64,
    root: u64,
}

impl Layout {
    /// The length of the file.
    pub(crate) fn file_bytes(&self) -> u64 {
        self.pages * self.page_bytes as u64
    }

    /// The first pages of the file: both meta pages, and a free list without pages.
    pub(crate) fn head(&self) -> Vec<u8> {
        let Layout { page_bytes, pages, root } = *self;
        let mut out = Vec::with_capacity(page_bytes * PAGES_BEFORE as usize);
        // bbolt writes to the meta page with the lower transaction next.
        for transaction in [2, 1] {
            let page_bytes = u32::try_from(page_bytes).expect("a page size has a few digits");
            Meta { page_bytes, root, freelist: FREELIST_PAGE, pages, transaction }.encode(&mut out);
        }
        PageHeader { id: FREELIST_PAGE, kind: FREELIST, count: 0, overflow: 0 }.encode(&mut out);
        out.resize(page_bytes * PAGES_BEFORE as usize, 0);
        out
    }
}

/// See the module.
pub(crate) struct Builder<O: Output> {
    output: O,
    page_bytes: usize,
    next_page: u64,
    /// The values of the root tree.
    buckets: BTreeMap<&'static str, O::Part>,
    open: Option<(&'static str, Tree<O::Part>)>,
}

impl<O: Output> Builder<O> {
    pub(crate) fn new(output: O, page_bytes: usize) -> Builder<O> {
        Builder { output, page_bytes, next_page: PAGES_BEFORE, buckets: BTreeMap::new(), open: None }
    }

    /// Begins a bucket, in any order of names.
    pub(crate) fn begin(&mut self, name: &'static str) {
        assert!(self.open.is_none(), "one bucket is written at a time");
        assert!(!self.buckets.contains_key(name), "a bucket is written once");
        self.open = Some((name, Tree::new()));
    }

    /// Adds a key to the bucket, greater than those before it.
    pub(crate) fn put(&mut self, key: O::Part, value: O::Part) {
        let (_, tree) = self.open.as_mut().expect("a key is put into a bucket");
        let mut pages = Pages { output: &mut self.output, page_bytes: self.page_bytes, next: self.next_page };
        tree.put(Element { key, target: Target::Value(value) }, &mut pages);
        self.next_page = pages.next;
    }

    /// Ends the bucket.
    pub(crate) fn end(&mut self) {
        let (name, tree) = self.open.take().expect("a bucket ends that was begun");
        let inline_max = self.page_bytes / 4;
        let value = match tree.only_leaf() {
            Some((leaf, bytes)) if bytes <= inline_max => O::inline_bucket(leaf, bytes),
            _ => O::bucket(self.finish_tree(tree)),
        };
        self.buckets.insert(name, value);
    }

    /// Gives out the last pages.
    pub(crate) fn finish(mut self) -> (Layout, O) {
        assert!(self.open.is_none(), "every bucket was ended");
        let mut tree = Tree::new();
        for (name, value) in std::mem::take(&mut self.buckets) {
            let mut pages =
                Pages { output: &mut self.output, page_bytes: self.page_bytes, next: self.next_page };
            tree.put(Element { key: O::name(name), target: Target::Bucket(value) }, &mut pages);
            self.next_page = pages.next;
        }
        let root = self.finish_tree(tree);
        (Layout { page_bytes: self.page_bytes, pages: self.next_page, root }, self.output)
    }

    /// The pages that were given out, to be taken away.
    pub(crate) fn output(&mut self) -> &mut O {
        &mut self.output
    }

    fn finish_tree(&mut self, tree: Tree<O::Part>) -> u64 {
        let mut pages = Pages { output: &mut self.output, page_bytes: self.page_bytes, next: self.next_page };
        let root = tree.finish(&mut pages);
        self.next_page = pages.next;
        root
    }
}

/// Gives pages their numbers.
struct Pages<'o, O> {
    output: &'o mut O,
    page_bytes: usize,
    next: u64,
}

impl<O: Output> Pages<'_, O> {
    /// Returns the page's number. `bytes` are those of the elements.
    fn give_out(&mut self, elements: &[Element<O::Part>], bytes: usize) -> u64 {
        let id = self.next;
        let pages = (PAGE_HEADER_BYTES + bytes).div_ceil(self.page_bytes);
        self.next += pages as u64;
        let (bytes, page_bytes) = (pages * self.page_bytes, self.page_bytes);
        self.output.page(NewPage { id, elements, bytes, page_bytes });
        id
    }

    fn fits(&self, bytes: usize) -> bool {
        PAGE_HEADER_BYTES + bytes <= self.page_bytes
    }
}

/// A bucket that is being written.
struct Tree<P> {
    leaf: Vec<Element<P>>,
    leaf_bytes: usize,
    /// From the lowest up.
    branches: Vec<Level<P>>,
}

/// The pages of a level that are in no branch yet.
struct Level<P> {
    below: Vec<Element<P>>,
    /// How many of them fit into one page, and their bytes.
    fit: usize,
    fit_bytes: usize,
}

impl<P: Clone> Tree<P> {
    fn new() -> Tree<P> {
        Tree { leaf: Vec::new(), leaf_bytes: 0, branches: Vec::new() }
    }

    fn put<O: Output<Part = P>>(&mut self, element: Element<P>, pages: &mut Pages<'_, O>) {
        let bytes = element_bytes::<O>(&element);
        let is_full = !pages.fits(self.leaf_bytes + bytes) || self.leaf.len() == ELEMENTS_MAX;
        if is_full && !self.leaf.is_empty() {
            self.give_out_leaf(pages);
        }
        self.leaf.push(element);
        self.leaf_bytes += bytes;
    }

    /// The leaf, if that is all of the tree.
    fn only_leaf(&self) -> Option<(&[Element<P>], usize)> {
        let bytes = BUCKET_HEADER_BYTES + PAGE_HEADER_BYTES + self.leaf_bytes;
        self.branches.is_empty().then_some((&*self.leaf, bytes))
    }

    fn give_out_leaf<O: Output<Part = P>>(&mut self, pages: &mut Pages<'_, O>) {
        let first = self.leaf.first().map(|element| element.key.clone());
        let page = pages.give_out(&self.leaf, self.leaf_bytes);
        self.leaf.clear();
        self.leaf_bytes = 0;
        let key = first.expect("a leaf is given out when it has a key");
        self.add_below(0, Element { key, target: Target::Page(page) }, pages);
    }

    fn add_below<O: Output<Part = P>>(&mut self, at: usize, element: Element<P>, pages: &mut Pages<'_, O>) {
        if at == self.branches.len() {
            self.branches.push(Level { below: Vec::new(), fit: 0, fit_bytes: 0 });
        }
        let level = &mut self.branches[at];
        level.add::<O>(element, pages.page_bytes);
        // What stays behind is enough for a branch, whatever comes.
        if level.below.len() - level.fit == BRANCH_ELEMENTS_MIN {
            let branch = level.give_out(level.fit, pages);
            self.add_below(at + 1, branch, pages);
        }
    }

    /// Gives out what is left, and returns the root.
    fn finish<O: Output<Part = P>>(mut self, pages: &mut Pages<'_, O>) -> u64 {
        if self.branches.is_empty() {
            return pages.give_out(&self.leaf, self.leaf_bytes);
        }
        self.give_out_leaf(pages);
        let mut at = 0;
        loop {
            let is_top = at + 1 == self.branches.len();
            if is_top && let [Element { target: Target::Page(root), .. }] = self.branches[at].below[..] {
                return root;
            }
            for count in self.branches[at].last_branches() {
                let branch = self.branches[at].give_out(count, pages);
                self.add_below(at + 1, branch, pages);
            }
            at += 1;
        }
    }
}

impl<P: Clone> Level<P> {
    fn add<O: Output<Part = P>>(&mut self, element: Element<P>, page_bytes: usize) {
        let bytes = self.fit_bytes + element_bytes::<O>(&element);
        let fits = PAGE_HEADER_BYTES + bytes <= page_bytes || self.fit < BRANCH_ELEMENTS_MIN;
        if self.fit == self.below.len() && fits {
            (self.fit, self.fit_bytes) = (self.fit + 1, bytes);
        }
        self.below.push(element);
    }

    /// How many elements each of the last branches gets.
    fn last_branches(&self) -> Vec<usize> {
        let (all, fit) = (self.below.len(), self.fit);
        assert!(all >= BRANCH_ELEMENTS_MIN, "a branch has two pages below it");
        assert!(
            all - fit < BRANCH_ELEMENTS_MIN,
            "what does not fit was given out when there was enough for a branch"
        );
        match all - fit {
            0 => vec![all],
            _ if fit > BRANCH_ELEMENTS_MIN => vec![fit - 1, BRANCH_ELEMENTS_MIN],
            // The keys are so long that hardly two fit into a page: the branch continues in the next.
            _ => vec![all],
        }
    }

    /// Makes a branch of the first `count` pages, and returns what stands for it one level up.
    fn give_out<O: Output<Part = P>>(&mut self, count: usize, pages: &mut Pages<'_, O>) -> Element<P> {
        let rest = self.below.split_off(count);
        let branch = std::mem::take(&mut self.below);
        (self.fit, self.fit_bytes) = (0, 0);
        for element in rest {
            self.add::<O>(element, pages.page_bytes);
        }
        let bytes = branch.iter().map(element_bytes::<O>).sum();
        let page = pages.give_out(&branch, bytes);
        Element { key: branch[0].key.clone(), target: Target::Page(page) }
    }
}

fn element_bytes<O: Output>(element: &Element<O::Part>) -> usize {
    let value_bytes = match &element.target {
        Target::Value(value) | Target::Bucket(value) => O::length(value),
        Target::Page(_) => 0,
    };
    ELEMENT_BYTES + O::length(&element.key) + value_bytes
}

/// Lays a file out without writing it.
#[derive(Debug, Default)]
pub(crate) struct Counted;

impl Output for Counted {
    type Part = usize;

    fn part(bytes: Bytes) -> usize {
        bytes.len()
    }

    fn length(part: &usize) -> usize {
        *part
    }

    fn name(name: &'static str) -> usize {
        name.len()
    }

    fn bucket(_: u64) -> usize {
        BUCKET_HEADER_BYTES
    }

    fn inline_bucket(_: &[Element<usize>], bytes: usize) -> usize {
        bytes
    }

    fn page(&mut self, _: NewPage<'_, usize>) {}
}

/// Collects the pages.
#[derive(Debug, Default)]
pub(crate) struct Written {
    pages: BytesMut,
}

impl Written {
    /// The length of the pages that were not taken yet.
    pub(crate) fn len(&self) -> usize {
        self.pages.len()
    }

    /// The next bytes of the file, `max` of them at most.
    pub(crate) fn take(&mut self, max: usize) -> Bytes {
        let length = self.pages.len().min(max);
        self.pages.split_to(length).freeze()
    }
}

impl Output for Written {
    type Part = Bytes;

    fn part(bytes: Bytes) -> Bytes {
        bytes
    }

    fn length(part: &Bytes) -> usize {
        part.len()
    }

    fn name(name: &'static str) -> Bytes {
        Bytes::from_static(name.as_bytes())
    }

    fn bucket(root: u64) -> Bytes {
        let mut value = BytesMut::with_capacity(BUCKET_HEADER_BYTES);
        put_bucket_header(root, &mut value);
        value.freeze()
    }

    fn inline_bucket(leaf: &[Element<Bytes>], bytes: usize) -> Bytes {
        let mut value = BytesMut::with_capacity(bytes);
        put_bucket_header(0, &mut value);
        put_page(PageHeader { id: 0, kind: LEAF, count: count_of(leaf), overflow: 0 }, leaf, &mut value);
        assert_eq!(value.len(), bytes, "a page has the length that was counted for it");
        value.freeze()
    }

    fn page(&mut self, page: NewPage<'_, Bytes>) {
        let NewPage { id, elements, bytes, page_bytes } = page;
        let is_branch = matches!(elements.first(), Some(Element { target: Target::Page(_), .. }));
        let kind = if is_branch { BRANCH } else { LEAF };
        let overflow = u32::try_from(bytes / page_bytes - 1).expect("a page is shorter than 4 GiB");
        let end = self.pages.len() + bytes;
        put_page(PageHeader { id, kind, count: count_of(elements), overflow }, elements, &mut self.pages);
        assert!(self.pages.len() <= end, "a page has the length that was counted for it");
        self.pages.resize(end, 0);
    }
}

fn count_of<P>(elements: &[Element<P>]) -> u16 {
    u16::try_from(elements.len()).expect("a page has no more elements than may be")
}

fn put_bucket_header(root: u64, out: &mut BytesMut) {
    out.put_u64_le(root);
    out.put_u64_le(0);
}

fn put_page(header: PageHeader, elements: &[Element<Bytes>], out: &mut BytesMut) {
    let mut head = Vec::with_capacity(PAGE_HEADER_BYTES);
    header.encode(&mut head);
    out.put_slice(&head);
    // The first key is behind all elements.
    let mut position = elements.len() * ELEMENT_BYTES;
    let length = |bytes: usize| u32::try_from(bytes).expect("a page is shorter than 4 GiB");
    for element in elements {
        let (value_bytes, flags) = match &element.target {
            Target::Value(value) => (value.len(), 0),
            Target::Bucket(value) => (value.len(), IS_BUCKET),
            Target::Page(_) => (0, 0),
        };
        if let Target::Page(page) = element.target {
            out.put_u32_le(length(position));
            out.put_u32_le(length(element.key.len()));
            out.put_u64_le(page);
        } else {
            out.put_u32_le(flags);
            out.put_u32_le(length(position));
            out.put_u32_le(length(element.key.len()));
            out.put_u32_le(length(value_bytes));
        }
        position += element.key.len() + value_bytes;
        position -= ELEMENT_BYTES;
    }
    for element in elements {
        out.put_slice(&element.key);
        if let Target::Value(value) | Target::Bucket(value) = &element.target {
            out.put_slice(value);
        }
    }
}
