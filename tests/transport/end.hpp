// One end of a pull: a fabric with an arena, in "device" memory if it has a device.
#pragma once

#include "tests/transport/fake_device.hpp"
#include "tests/transport/harness.hpp"

namespace troupe::transport::testing {

struct end_options {
  std::size_t arena_bytes = 0;
  std::size_t staging_bytes = 0;
  std::optional<path> forced;
  event_sink sink = nullptr;  // who hears instead of `events`
};

struct fabric_end {
  fabric_end(incarnation self, std::shared_ptr<fake_device> with, const end_options& o)
      : device(std::move(with)) {
    ucx_options options;
    options.self = self;
    options.device = device;
    options.staging_bytes = o.staging_bytes;
    options.force_path = o.forced;
    link = std::move(make_ucx_fabric(options, o.sink ? o.sink : events.sink()).value());
    if (device == nullptr) {
      arena = link->allocate(o.arena_bytes).value();
    } else {
      const auto memory = device->allocate(o.arena_bytes);
      arena = link->register_memory(memory.data(), memory.size(), memory_kind::cuda).value();
    }
  }
  ~fabric_end() { link->close(); }

  std::shared_ptr<fake_device> device;
  recorder events;
  std::unique_ptr<fabric> link;
  region arena;
};

}  // namespace troupe::transport::testing
