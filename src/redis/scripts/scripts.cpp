#include "redis/scripts/scripts.hpp"

#include "lua_texts.hpp"

namespace taskmux::redis {

Scripts::Scripts()
    : enqueue{"enqueue", lua::enqueue},
      give_back{"give_back", lua::give_back},
      acquire{"acquire", lua::acquire},
      settle{"settle", lua::settle},
      extend{"extend", lua::extend},
      quarantine{"quarantine", lua::quarantine},
      upkeep{"upkeep", lua::upkeep},
      look{"look", lua::look},
      try_rights{"try_rights", lua::try_rights},
      heartbeat{"heartbeat", lua::heartbeat},
      register_server{"register_server", lua::register_server},
      write_server{"write_server", lua::write_server},
      live_servers{"live_servers", lua::live_servers},
      queue_info{"queue_info", lua::queue_info},
      groups{"groups", lua::groups},
      page{"page", lua::page},
      find{"find", lua::find},
      act{"act", lua::act},
      act_all{"act_all", lua::act_all},
      archives{"archives", lua::archives},
      trim{"trim", lua::trim},
      update_message{"update_message", lua::update_message},
      pause{"pause", lua::pause},
      cancel{"cancel", lua::cancel},
      empty_queue{"empty_queue", lua::empty_queue} {}

std::vector<const Script*> Scripts::all() const {
  return {&enqueue,
          &give_back,
          &acquire,
          &settle,
          &extend,
          &quarantine,
          &upkeep,
          &look,
          &try_rights,
          &heartbeat,
          &register_server,
          &write_server,
          &live_servers,
          &queue_info,
          &groups,
          &page,
          &find,
          &act,
          &act_all,
          &archives,
          &trim,
          &update_message,
          &pause,
          &cancel,
          &empty_queue};
}

const Scripts& scripts() {
  static const Scripts instance;
  return instance;
}

}  // namespace taskmux::redis
