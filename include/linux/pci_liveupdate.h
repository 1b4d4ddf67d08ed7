/* SPDX-License-Identifier: GPL-2.0 */

/*
 * PCI devices that keep working while the kernel is replaced by a live update.
 *
 * See Documentation/core-api/liveupdate-pci.rst for an introduction, and
 * rust/kernel/pci/liveupdate.rs for the same interface in Rust.
 */
#ifndef _LINUX_PCI_LIVEUPDATE_H
#define _LINUX_PCI_LIVEUPDATE_H

#include <linux/errno.h>
#include <linux/types.h>

struct liveupdate_file_handler;
struct pci_dev;

#ifdef CONFIG_PCI_LIVEUPDATE

int pci_liveupdate_attach(struct liveupdate_file_handler *handler);
int pci_liveupdate_preserve(struct pci_dev *dev);
void pci_liveupdate_unpreserve(struct pci_dev *dev);
bool pci_liveupdate_is_outgoing(struct pci_dev *dev);
bool pci_liveupdate_is_incoming(struct pci_dev *dev);
int pci_liveupdate_take_over(struct pci_dev *dev);
int pci_liveupdate_finish(u32 domain, u16 bdf, bool stop);

#else

static inline int
pci_liveupdate_attach(struct liveupdate_file_handler *handler)
{
	return -EOPNOTSUPP;
}

static inline int pci_liveupdate_preserve(struct pci_dev *dev)
{
	return -EOPNOTSUPP;
}

static inline void pci_liveupdate_unpreserve(struct pci_dev *dev)
{
}

static inline bool pci_liveupdate_is_outgoing(struct pci_dev *dev)
{
	return false;
}

static inline bool pci_liveupdate_is_incoming(struct pci_dev *dev)
{
	return false;
}

static inline int pci_liveupdate_take_over(struct pci_dev *dev)
{
	return -EOPNOTSUPP;
}

static inline int pci_liveupdate_finish(u32 domain, u16 bdf, bool stop)
{
	return -EOPNOTSUPP;
}

#endif /* CONFIG_PCI_LIVEUPDATE */

#endif /* _LINUX_PCI_LIVEUPDATE_H */
