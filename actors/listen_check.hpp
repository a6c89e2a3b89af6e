// Whether an address can be listened on, found out before seconds are spent on what the port is for.
#pragma once

#include <cstdint>
#include <string>

#include "base/result.hpp"

namespace troupe::actors {

// Listens for a moment. ec::address_in_use; ec::invalid_argument: the host is no address or name of this machine. `flags`
// begin the message: "--host, --port". Port 0 is any free one.
result<void> check_listen(const std::string& host, std::uint16_t port, const std::string& flags);

}  // namespace troupe::actors
