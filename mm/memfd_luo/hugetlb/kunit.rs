// SPDX-License-Identifier: GPL-2.0

//! KUnit tests of the formats of huge pages. The parsers are also tested on the host, with random data.

#[kernel::macros::kunit_tests(hugetlb_format)]
mod tests {
    use crate::{
        abi::FormatError,
        hugetlb::abi::{
            HugetlbMemfd,
            HugetlbMemfdSer,
            HugetlbSer,
            Kind, //
        }, //
    };
    use zerocopy::FromZeros;

    #[test]
    fn huge_pages_have_a_size() {
        for (order, valid) in [(0, false), (9, true), (18, true), (23, false), (64, false)] {
            let ser = HugetlbMemfdSer {
                order,
                ..HugetlbMemfdSer::default()
            };
            assert_eq!(HugetlbMemfd::parse(&ser).is_ok(), valid);
        }
    }

    #[test]
    fn pages_of_each_kind_are_counted() {
        let mut counts = HugetlbSer::new_zeroed();
        let [small, large] = [(9, 0), (9, 1)].map(|(order, node)| Kind { order, node });
        assert!(counts.add(small, 3) && counts.add(large, 2) && counts.add(small, 1));
        let found = |counts: &HugetlbSer, kind| -> Option<u64> {
            counts
                .parse()
                .ok()?
                .find(|(of, _)| *of == kind)
                .map(|(_, nr)| nr)
        };
        assert_eq!(
            (found(&counts, small), found(&counts, large)),
            (Some(4), Some(2))
        );
        counts.remove(small, 4);
        assert_eq!(
            (found(&counts, small), found(&counts, large)),
            (None, Some(2))
        );
    }

    #[test]
    fn invalid_counts_are_refused() {
        let mut counts = HugetlbSer::new_zeroed();
        for node in 0..HugetlbSer::COUNTS as u16 {
            assert!(counts.add(Kind { order: 9, node }, 1));
        }
        assert!(!counts.add(Kind { order: 18, node: 0 }, 1));
        assert!(counts.parse().is_ok());
        counts.counts[1] = counts.counts[0];
        assert_eq!(counts.parse().err(), Some(FormatError::BadOrder));
        counts.nr_counts += 1;
        assert_eq!(counts.parse().err(), Some(FormatError::BadCount));
    }
}
