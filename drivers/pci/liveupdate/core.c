// SPDX-License-Identifier: GPL-2.0

/*
 * Functions of the PCI core for the code in Rust.
 *
 * Two flags of a device mean that it keeps working: while this kernel preserves
 * it (outgoing), and from its discovery in the next kernel until the last file
 * is finished that depends on such devices (incoming).
 */

#include <linux/device.h>
#include <linux/kexec.h>
#include <linux/pm_runtime.h>

#include "../pci.h"
#include "core.h"

/**
 * pci_liveupdate_is_outgoing - tell whether this kernel preserves a device
 * @dev: the device
 *
 * Such a device must be left as it is: the next kernel takes it over. The
 * shutdown operation of its driver is called, and must not stop it.
 */
bool pci_liveupdate_is_outgoing(struct pci_dev *dev)
{
	return test_bit(PCI_DEV_OUTGOING, &dev->priv_flags);
}
EXPORT_SYMBOL_GPL(pci_liveupdate_is_outgoing);

/**
 * pci_liveupdate_is_incoming - tell whether the previous kernel handed a device
 * over
 * @dev: the device
 *
 * Such a device is working. Its driver must neither reset it nor set it up
 * again. The flag stays until all files are finished that depend on PCI
 * devices.
 */
bool pci_liveupdate_is_incoming(struct pci_dev *dev)
{
	return test_bit(PCI_DEV_INCOMING, &dev->priv_flags);
}
EXPORT_SYMBOL_GPL(pci_liveupdate_is_incoming);

/* Defined in Rust. */
EXPORT_SYMBOL_GPL(pci_liveupdate_take_over);

/* Fails with -EOPNOTSUPP for what the format cannot express. */
int pci_liveupdate_check(struct pci_dev *dev)
{
	if (dev->is_virtfn || pci_num_vf(dev) ||
	    dev->hdr_type == PCI_HEADER_TYPE_CARDBUS ||
	    dev->non_compliant_bars || dev->current_state != PCI_D0)
		return -EOPNOTSUPP;
	return 0;
}

/*
 * Sets whether a device, which must be present, is left as it is. If so, the
 * device is resumed, and a reference to it is held.
 */
void pci_liveupdate_hold(struct pci_dev *dev, bool hold)
{
	if (hold) {
		pci_dev_get(dev);
		pm_runtime_get_sync(&dev->dev);
		set_bit(PCI_DEV_OUTGOING, &dev->priv_flags);
	} else {
		clear_bit(PCI_DEV_OUTGOING, &dev->priv_flags);
		pm_runtime_put(&dev->dev);
		pci_dev_put(dev);
	}
}

void pci_liveupdate_set_incoming(struct pci_dev *dev, bool incoming)
{
	u16 command;

	if (!incoming) {
		clear_bit(PCI_DEV_INCOMING, &dev->priv_flags);
		return;
	}
	set_bit(PCI_DEV_INCOMING, &dev->priv_flags);
	if (pci_is_bridge(dev))
		return;
	/* The PCI core turns MSI off later. The line has no handler yet. */
	pci_read_config_word(dev, PCI_COMMAND, &command);
	pci_write_config_word(dev, PCI_COMMAND,
			      command | PCI_COMMAND_INTX_DISABLE);
}

/* The bridge above a device, or NULL. */
struct pci_dev *pci_liveupdate_bridge(struct pci_dev *dev)
{
	return pci_upstream_bridge(dev);
}

int pci_liveupdate_domain(struct pci_dev *dev)
{
	return pci_domain_nr(dev->bus);
}

/*
 * The ACS control register in the low half, and the ARI bit of the device
 * control 2 register in the high half; zero if there is no such register.
 * May be called before the device is registered.
 */
u32 pci_liveupdate_routing(struct pci_dev *dev)
{
	u16 acs = 0, ctl2 = 0;
	int pos;

	pos = pci_find_ext_capability(dev, PCI_EXT_CAP_ID_ACS);
	if (pos)
		pci_read_config_word(dev, pos + PCI_ACS_CTRL, &acs);
	pcie_capability_read_word(dev, PCI_EXP_DEVCTL2, &ctl2);
	return acs | (u32)(ctl2 & PCI_EXP_DEVCTL2_ARI) << 16;
}

/* May be called before the device is registered. */
void pci_liveupdate_master_off(struct pci_dev *dev)
{
	u16 command;

	pci_read_config_word(dev, PCI_COMMAND, &command);
	/* The write of pci_clear_master() would be dropped */
	if (command & PCI_COMMAND_MASTER)
		pci_bus_write_config_word(dev->bus, dev->devfn, PCI_COMMAND,
					  command & ~PCI_COMMAND_MASTER);
	dev->is_busmaster = 0;
	/* Flushes earlier writes of the device. */
	pci_read_config_word(dev, PCI_COMMAND, &command);
}

/*
 * Returns whether a write of this kernel to the configuration space must be
 * dropped. This applies to a device, or a bridge above one, that was handed over
 * and has no driver yet: the previous kernel has configured it, and the PCI core
 * must not do this again. Writes of drivers and of user space are not dropped.
 *
 * May be called in any context.
 */
bool pci_liveupdate_drops_write(const struct pci_dev *dev, int where, u32 value)
{
	u16 command;

	if (!test_bit(PCI_DEV_INCOMING, &dev->priv_flags) || dev->driver)
		return false;

	/* The kexec stops devices that are not preserved again */
	if (kexec_in_progress)
		return false;

	/* MSI and MSI-X of the previous kernel may be turned off, but not on */
	if (dev->msi_cap && where == dev->msi_cap + PCI_MSI_FLAGS)
		return value & PCI_MSI_FLAGS_ENABLE;
	if (dev->msix_cap && where == dev->msix_cap + PCI_MSIX_FLAGS)
		return value & PCI_MSIX_FLAGS_ENABLE;

	/* The PCI core may set and test the interrupt disable bit */
	if (where == PCI_COMMAND) {
		pci_bus_read_config_word(dev->bus, dev->devfn, PCI_COMMAND,
					 &command);
		return (value ^ command) & ~PCI_COMMAND_INTX_DISABLE;
	}

	return true;
}

/* Returns whether there are working devices on a root bus or below it. */
bool pci_liveupdate_has_incoming(struct pci_bus *root)
{
	struct pci_dev *dev;

	/* The bridges above a working device are incoming as well */
	list_for_each_entry(dev, &root->devices, bus_list)
		if (pci_liveupdate_is_incoming(dev))
			return true;
	return false;
}
