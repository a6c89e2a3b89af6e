#include "actors/node_platform.hpp"

#include <caf/actor_cast.hpp>
#include <random>

#include "actors/driver_loop.hpp"
#include "transport/ucx/fabric.hpp"

namespace troupe::actors {
namespace {

std::uint64_t random_incarnation() {
  std::random_device random;
  const auto value = (std::uint64_t{random()} << 32) | random();
  return value == 0 ? 1 : value;
}

result<std::uint16_t> publish(caf::actor_system& system, role kind,
                              const caf::strong_actor_ptr& actor, const network_settings& network) {
  auto port = with_handle_of(kind, [&](auto typed) {
    return actors::publish(system, caf::actor_cast<decltype(typed)>(actor), network.host,
                           network.port);
  });
  if (!port)
    return fail(ec::address_in_use, "cannot listen on " + network.host + ":" +
                                        std::to_string(network.port) + ": choose another --port");
  return *port;
}

}  // namespace

node_platform product_platform(caf::actor_system& system) {
  node_platform p;
  p.make_runner = gpu::make_runner;
  p.make_fabric = [](incarnation self, const network_settings& network,
                     std::shared_ptr<transport::device_memory> device, transport::event_sink sink) {
    transport::ucx_options ucx;
    ucx.self = self;
    ucx.host = network.host;
    ucx.secret = network.secret;
    ucx.device = std::move(device);
    return transport::make_ucx_fabric(ucx, std::move(sink));
  };
  p.make_driver = [](std::unique_ptr<engine::engine> engine, engine_driver::hooks hooks) {
    return std::make_unique<engine_loop>(std::move(engine), std::move(hooks));
  };
  p.make_draft_driver = [](std::unique_ptr<engine::draft_engine> engine,
                           draft_driver::hooks hooks) {
    return std::make_unique<draft_loop>(std::move(engine), std::move(hooks));
  };
  p.publish = [&system](role kind, const caf::strong_actor_ptr& actor,
                        const network_settings& network) {
    return publish(system, kind, actor, network);
  };
  p.connector = product_connector(system);
  p.new_incarnation = random_incarnation;
  p.now = engine::clock::now;
  p.touch_ahead = 64 << 20;
  return p;
}

}  // namespace troupe::actors
