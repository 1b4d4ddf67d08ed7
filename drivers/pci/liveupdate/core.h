/* SPDX-License-Identifier: GPL-2.0 */

/*
 * Functions that the PCI core and the code for live updates provide to each
 * other.
 */
#ifndef _DRIVERS_PCI_LIVEUPDATE_CORE_H
#define _DRIVERS_PCI_LIVEUPDATE_CORE_H

#include <linux/pci.h>
#include <linux/pci_liveupdate.h>

#ifdef CONFIG_PCI_LIVEUPDATE

/* Called by the PCI core. */
void pci_liveupdate_shutdown(struct pci_dev *dev);
void pci_liveupdate_setup(struct pci_dev *dev);
bool pci_liveupdate_bar_sizes(struct pci_dev *dev, unsigned int count,
			      u32 *sizes, u32 *rom_size);
bool pci_liveupdate_drops_write(const struct pci_dev *dev, int where,
				u32 value);
bool pci_liveupdate_has_incoming(struct pci_bus *root);

/* Called by the code in Rust. */
int pci_liveupdate_check(struct pci_dev *dev);
void pci_liveupdate_hold(struct pci_dev *dev, bool hold);
void pci_liveupdate_set_incoming(struct pci_dev *dev, bool incoming);
struct pci_dev *pci_liveupdate_bridge(struct pci_dev *dev);
int pci_liveupdate_domain(struct pci_dev *dev);
u32 pci_liveupdate_routing(struct pci_dev *dev);
void pci_liveupdate_master_off(struct pci_dev *dev);

#else

static inline void pci_liveupdate_shutdown(struct pci_dev *dev)
{
}

static inline void pci_liveupdate_setup(struct pci_dev *dev)
{
}

static inline bool pci_liveupdate_bar_sizes(struct pci_dev *dev,
					    unsigned int count, u32 *sizes,
					    u32 *rom_size)
{
	return false;
}

static inline bool pci_liveupdate_drops_write(const struct pci_dev *dev,
					      int where, u32 value)
{
	return false;
}

static inline bool pci_liveupdate_has_incoming(struct pci_bus *root)
{
	return false;
}

#endif /* CONFIG_PCI_LIVEUPDATE */

/* Returns whether @dev keeps working, and must be left as it is. */
static inline bool pci_liveupdate_is_kept(struct pci_dev *dev)
{
	return pci_liveupdate_is_outgoing(dev) || pci_liveupdate_is_incoming(dev);
}

/* Whether @drv must not be bound to @dev, which works for another driver. */
static inline bool pci_liveupdate_is_foreign(const struct pci_driver *drv,
					     struct pci_dev *dev)
{
	if (pci_is_bridge(dev))
		return false;
	/* A preserved device gets no driver, even if its own was unbound */
	return pci_liveupdate_is_outgoing(dev) ||
	       (pci_liveupdate_is_incoming(dev) && !drv->takes_over);
}

#endif /* _DRIVERS_PCI_LIVEUPDATE_CORE_H */
