// SPDX-License-Identifier: GPL-2.0

/*
 * Exports the functions that handlers in modules call. They are defined in Rust, in
 * c_abi.rs.
 */

#include <linux/export.h>
#include <linux/liveupdate.h>

EXPORT_SYMBOL_GPL(liveupdate_enabled);
EXPORT_SYMBOL_GPL(liveupdate_reboot_pending);
EXPORT_SYMBOL_GPL(liveupdate_register_file_handler);
EXPORT_SYMBOL_GPL(liveupdate_unregister_file_handler);
EXPORT_SYMBOL_GPL(liveupdate_get_file_outgoing);
EXPORT_SYMBOL_GPL(liveupdate_get_token_outgoing);
EXPORT_SYMBOL_GPL(liveupdate_get_dma_target_outgoing);
EXPORT_SYMBOL_GPL(liveupdate_get_file_incoming);
EXPORT_SYMBOL_GPL(liveupdate_register_flb);
EXPORT_SYMBOL_GPL(liveupdate_unregister_flb);
EXPORT_SYMBOL_GPL(liveupdate_flb_get_incoming);
EXPORT_SYMBOL_GPL(liveupdate_flb_put_incoming);
EXPORT_SYMBOL_GPL(liveupdate_flb_get_outgoing);
EXPORT_SYMBOL_GPL(liveupdate_flb_put_outgoing);
