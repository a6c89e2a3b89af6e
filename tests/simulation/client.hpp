// A client of the cluster: asks, listens, and keeps what it was told.
#pragma once

#include <caf/event_based_actor.hpp>
#include <map>

#include "actors/interfaces.hpp"
#include "tests/simulation/answers.hpp"

namespace troupe::simulation {

// One request as its client saw it.
struct conversation {
  request asked;
  std::uint64_t id = 0;
  bool submitted = false, connection_lost = false, client_gone = false;
  time_point at{}, last_word{};
  std::vector<token_id> tokens;
  std::optional<actors::generation_finished> end;
  std::string broken;  // a gap, a duplicate, a word after the end

  bool over() const { return end || connection_lost || client_gone; }
};

struct client_book {
  std::string server_host;
  std::uint16_t server_port = 0;
  actors::connector_actor connector;
  std::map<std::uint64_t, conversation*> conversations;  // by id
  std::function<time_point()> now;
  std::function<void(const conversation&)> heard;
};

// Takes (ok_atom, id) to submit and (tick_atom, id) to cancel.
caf::behavior client(caf::event_based_actor* self, std::shared_ptr<client_book> book);

}  // namespace troupe::simulation
